"""Where every random number comes from: a generator named by a seed and a path.

The path says what the number is for, such as ``("client", 7, "round", 3, "batches")``. Two places that
use the same path draw the same numbers, in whatever order, thread or process they run; nothing in
fedsim draws from a global generator, from the time or from a node id.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

_GLOBAL_STATE = threading.Lock()


def derive(seed: int, *path: str | int) -> int:
    """A 63-bit seed for the place that ``path`` names.

    >>> derive(0, "client", 7) == derive(0, "client", 7)
    True
    >>> derive(0, "client", 7) == derive(0, "client", "7")
    False
    """
    name = json.dumps([seed, *path], separators=(",", ":")).encode()
    return int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "big") >> 1


def generator(seed: int, *path: str | int) -> torch.Generator:
    """A torch generator on the CPU for the place that ``path`` names.

    Draws are made on the CPU and then moved, so that ``cpu`` and ``cuda`` see the same numbers.
    """
    return torch.Generator().manual_seed(derive(seed, *path))


def numpy_generator(seed: int, *path: str | int) -> np.random.Generator:
    """A NumPy generator for the place that ``path`` names."""
    return np.random.default_rng(derive(seed, *path))


@contextmanager
def borrowed_global_state(seed: int, *path: str | int) -> Iterator[None]:
    """Seed torch's global generator for code that can draw from nothing else, and give it back after.

    PyTorch initialises layers from the global generator only. One thread at a time borrows it; its
    state afterwards is what it was before.
    """
    with _GLOBAL_STATE, torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derive(seed, *path))
        yield
