"""Between Flower's serialised records and tensors."""

from __future__ import annotations

import threading

from flwr.app import Array, ArrayRecord
from torch import Tensor, from_numpy

from fedsim.protocol import Arrays


def to_record(arrays: Arrays) -> ArrayRecord:
    """Named tensors as a Flower ``ArrayRecord``."""
    return ArrayRecord({name: Array(tensor.detach().cpu().contiguous().numpy()) for name, tensor in arrays.items()})


def from_record(record: ArrayRecord) -> dict[str, Tensor]:
    """A Flower ``ArrayRecord`` as named tensors on the CPU, each with memory of its own."""
    return {name: from_numpy(array.numpy()) for name, array in record.items()}


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
