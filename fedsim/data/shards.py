"""Who has which examples: a sequence of index tensors that costs little however many clients there are."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedsim import seeding


class Shards(ABC):
    """For each client the ascending positions of its examples, int64.

    Attributes:
        sizes: examples of each client, int64 [clients].
        disjoint: whether no example is with two clients.
    """

    sizes: NDArray[np.int64]
    disjoint: bool

    @abstractmethod
    def __getitem__(self, client: int) -> Tensor:
        """The examples of one client."""

    def __len__(self) -> int:
        return len(self.sizes)

    def __iter__(self) -> Iterator[Tensor]:
        return (self[client] for client in range(len(self)))


class Dealt(Shards):
    """Examples dealt out, each to one client at most; one tensor holds all of them."""

    disjoint = True

    def __init__(self, shards: Sequence[Tensor]) -> None:
        self.sizes = np.fromiter((len(shard) for shard in shards), dtype=np.int64, count=len(shards))
        self.every = torch.cat(list(shards)) if shards else torch.empty(0, dtype=torch.int64)
        self._ends = self.sizes.cumsum()

    def __getitem__(self, client: int) -> Tensor:
        if not 0 <= client < len(self):
            raise IndexError(f"client {client} of {len(self)}")
        end = int(self._ends[client])
        return self.every[end - int(self.sizes[client]) : end]


class Drawn(Shards):
    """Examples that each client draws for itself, from all there are and without replacement, when it is asked for.

    Args:
        available: examples there are.
        examples: of each client.
        clients: how many.
        seed: of the experiment.
    """

    disjoint = False

    def __init__(self, available: int, examples: int, clients: int, seed: int) -> None:
        self.sizes = np.full(clients, examples, dtype=np.int64)
        self._available, self._seed = available, seed

    def __getitem__(self, client: int) -> Tensor:
        if not 0 <= client < len(self):
            raise IndexError(f"client {client} of {len(self)}")
        draws = seeding.numpy_generator(self._seed, "partition", "overlapping", client)
        chosen = draws.choice(self._available, int(self.sizes[client]), replace=False, shuffle=False)
        return torch.from_numpy(np.sort(chosen))
