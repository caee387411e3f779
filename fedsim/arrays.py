"""Between tensors and Flower's records, without serialising where nobody asks for the bytes."""

from __future__ import annotations

import functools
import itertools
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from io import BytesIO
from typing import Any, cast

import flwr.app
import numpy as np
import numpy.typing as npt
import torch
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
        self.__dict__.update(dtype=_name(values.dtype), shape=values.shape, stype=SType.NUMPY, _values=values)

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


@dataclass(frozen=True)
class Layout:
    """How arrays lie one after the other in a vector.

    Attributes:
        names: of the arrays.
        shapes: of each.
    """

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]

    def __reduce__(self) -> tuple[Any, ...]:
        return layout_of, (self.names, self.shapes)  # one object a process: quick to compare

    @functools.cached_property
    def ends(self) -> tuple[int, ...]:
        """Where each array ends in the vector."""
        return tuple(itertools.accumulate(int(np.prod(shape, dtype=np.int64)) for shape in self.shapes))


@functools.lru_cache(maxsize=64)
def layout_of(names: tuple[str, ...], shapes: tuple[tuple[int, ...], ...]) -> Layout:
    """The layout of these arrays, the same object each time."""
    return Layout(names, shapes)


class ArrayRecord(flwr.app.ArrayRecord):
    """Flower's ``ArrayRecord``, of arrays that lie in one vector: what is done to all numbers is done at once.

    For a small network a dozen small operations cost more than what they compute. Who changes an array in the record
    has its vector dropped. (It has the name of Flower's own for the reason that ``Array`` has.)

    Args:
        vector: all arrays, one after the other, which nobody may change any more.
        layout: which are where.
    """

    def __init__(self, vector: Values, layout: Layout) -> None:
        super().__init__()
        self.__dict__.update(_vector=vector, _layout=layout)
        data, start = self.__dict__["_data"], 0
        for name, shape, end in zip(layout.names, layout.shapes, layout.ends, strict=True):
            data[name] = Array(vector[start:end].reshape(shape))
            start = end

    def __setitem__(self, key: str, value: flwr.app.Array) -> None:
        self.__dict__["_vector"] = None
        super().__setitem__(key, value)

    def __delitem__(self, key: str) -> None:
        self.__dict__["_vector"] = None
        super().__delitem__(key)

    def copy(self) -> flwr.app.ArrayRecord:  # type: ignore[override]
        """A record of the same arrays."""
        return record_of(self.items())

    def __deepcopy__(self, memo: dict[int, Any]) -> flwr.app.ArrayRecord:
        return self.copy()

    def __reduce__(self) -> tuple[Any, ...]:
        if self.__dict__["_vector"] is None:
            return record_of, (list(self.items()),)
        return ArrayRecord, (self.__dict__["_vector"], self.__dict__["_layout"])


def vector_of(record: flwr.app.ArrayRecord) -> tuple[Values, Layout] | None:
    """The one vector that holds all arrays of a record, not to be written to, and their layout, if there is one."""
    if isinstance(record, ArrayRecord) and record.__dict__["_vector"] is not None:
        return record.__dict__["_vector"], record.__dict__["_layout"]
    return None


def record_of(arrays: Iterable[tuple[str, flwr.app.Array]]) -> flwr.app.ArrayRecord:
    """A record of arrays as they are: from a dictionary Flower makes its own, of bytes."""
    record = flwr.app.ArrayRecord()
    for name, array in arrays:
        record[name] = array
    return record


def to_record(arrays: Arrays) -> flwr.app.ArrayRecord:
    """Named tensors, as they are now, as a Flower ``ArrayRecord``."""
    tensors = list(arrays.values())
    if len({tensor.dtype for tensor in tensors}) == 1:
        layout = layout_of(tuple(arrays), tuple(tensor.shape for tensor in tensors))
        return ArrayRecord(torch.cat([tensor.detach().reshape(-1) for tensor in tensors]).cpu().numpy(), layout)
    return record_of((name, Array(tensor.detach().cpu().numpy().copy())) for name, tensor in arrays.items())


def from_record(record: flwr.app.ArrayRecord) -> dict[str, Tensor]:
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


def record_size(record: flwr.app.ArrayRecord) -> int:
    """Bytes of all arrays of a record in a message, without making them."""
    packed = vector_of(record)
    if packed is None:
        return sum(wire_size(array) for array in record.values())
    vector, layout = packed
    return _headers_size(_name(vector.dtype), layout) + int(vector.nbytes)


@functools.lru_cache(maxsize=64)
def _headers_size(dtype: str, layout: Layout) -> int:
    return sum(_header_size(dtype, shape) for shape in layout.shapes)


@functools.lru_cache(maxsize=64)
def _name(dtype: np.dtype[Any]) -> str:
    return str(dtype)  # which NumPy makes anew each time


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
        self._last: tuple[flwr.app.ArrayRecord, dict[str, Tensor]] | None = None

    def __call__(self, record: flwr.app.ArrayRecord) -> dict[str, Tensor]:
        """The record's tensors; shared with every other caller that passes the same record."""
        with self._lock:
            if self._last is None or self._last[0] is not record:
                self._last = (record, from_record(record))
            return self._last[1]
