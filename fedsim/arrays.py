"""Between tensors and Flower's records, without serialising where nobody asks for the bytes."""

from __future__ import annotations

import functools
import threading
from io import BytesIO
from typing import Any, cast

import flwr.app
import numpy as np
import numpy.typing as npt
from flwr.app import ArrayRecord
from flwr.common.constant import SType
from torch import Tensor, from_numpy

from fedsim.protocol import Arrays

Values = npt.NDArray[Any]


class Array(flwr.app.Array):
    """Flower's ``Array`` of values at hand: its bytes are made when first asked for, as by Flower's transport.

    Within one machine nobody asks, and most of what a small message costs is saved. (It has the name of
    Flower's own, which Flower writes before the bytes, to know what to make of them elsewhere.)

    Args:
        values: which nobody may change any more.
    """

    def __init__(self, values: Values) -> None:
        self.__dict__.update(dtype=str(values.dtype), shape=tuple(values.shape), stype=SType.NUMPY, _values=values)

    @property
    def data(self) -> bytes:  # type: ignore[override]
        """The values in NumPy's format, as Flower serialises them."""
        if "_data" not in self.__dict__:
            buffer = BytesIO()
            np.save(buffer, self.__dict__["_values"], allow_pickle=False)
            self.__dict__["_data"] = buffer.getvalue()
        return cast("bytes", self.__dict__["_data"])

    def numpy(self) -> Values:
        """The values, in memory of the caller's own."""
        return cast("Values", self.__dict__["_values"].copy())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, flwr.app.Array) and (self.dtype, self.shape, self.data) == (
            other.dtype,
            other.shape,
            other.data,
        )

    __hash__ = None  # type: ignore[assignment]

    def __deepcopy__(self, memo: dict[int, Any]) -> Array:
        return self

    def __reduce__(self) -> tuple[type[Array], tuple[Values]]:
        return Array, (self.__dict__["_values"],)


def to_record(arrays: Arrays) -> ArrayRecord:
    """Named tensors, as they are now, as a Flower ``ArrayRecord``."""
    record = ArrayRecord()  # filled by hand: from a dictionary Flower makes its own arrays, of bytes
    for name, tensor in arrays.items():
        record[name] = Array(tensor.detach().cpu().numpy().copy())
    return record


def from_record(record: ArrayRecord) -> dict[str, Tensor]:
    """A Flower ``ArrayRecord`` as named tensors on the CPU, each with memory of its own."""
    return {name: from_numpy(array.numpy()) for name, array in record.items()}


def values(array: flwr.app.Array) -> Values:
    """An array's values to look at, which may be shared and must not be written to."""
    return cast("Values", array.__dict__["_values"]) if isinstance(array, Array) else array.numpy()


def wire_size(array: flwr.app.Array) -> int:
    """Bytes of an array in a message, without making them."""
    if not isinstance(array, Array):
        return len(array.data)
    return _header_size(array.dtype, array.shape) + int(values(array).nbytes)


@functools.lru_cache(maxsize=1_024)
def _header_size(dtype: str, shape: tuple[int, ...]) -> int:
    header = BytesIO()
    described = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(header, described)
    return header.tell()


class Decoder:
    """Decodes a record once however many clients are sent the same one.

    Holds the last record alone, by identity: a round's messages share theirs. The tensors returned are
    shared and must not be written to.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last: tuple[ArrayRecord, dict[str, Tensor]] | None = None

    def __call__(self, record: ArrayRecord) -> dict[str, Tensor]:
        """The record's tensors; shared with every other caller that passes the same record."""
        with self._lock:
            if self._last is None or self._last[0] is not record:
                self._last = (record, from_record(record))
            return self._last[1]
