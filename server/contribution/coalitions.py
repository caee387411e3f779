"""The models of coalitions: what the global model would be had only some clients taken part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Generic

import torch
from torch import Tensor

from fedsim.errors import invalid
from fedsim.protocol import Arrays
from server.contribution.game import P


@dataclass(frozen=True)
class Update:
    """What a client's training changed.

    Attributes:
        arrays: the difference to the global model, under the names of its state.
        examples: weight of the client in an average; 1 or more.
    """

    arrays: Arrays
    examples: int


class Coalitions(Generic[P]):
    """Combines updates as FedAvg does, weighted by examples, over some of the clients.

    ``M_A = w + sum_{i in A} n_i / (sum_{j in A} n_j) (w_i - w)``, and ``w`` for nobody. Nothing is trained, and
    what is given is never written to. Whole numbers, such as batch-norm's counters, are rounded.

    Args:
        before: the global model's state ``w``.
        updates: of each client, in an order that fixes how sums are rounded.
        device: where to combine.

    Raises:
        FedsimError: an update without examples, or with other arrays than ``before``.
    """

    def __init__(self, before: Arrays, updates: Mapping[P, Update], device: torch.device | str = "cpu") -> None:
        for client, update in updates.items():
            if update.examples < 1:
                raise invalid(f"examples of client {client}", update.examples, "must be 1 or more", "Correct it")
            if update.arrays.keys() != before.keys():
                odd = sorted(update.arrays.keys() ^ before.keys())
                raise invalid(f"arrays of client {client}", odd, "are not those of the global model", "Correct them")
        self.players = list(updates)
        self._examples = torch.tensor([update.examples for update in updates.values()], dtype=torch.float64)
        self._before = {name: tensor.detach().to(device) for name, tensor in before.items()}
        self._updates = {
            name: torch.stack([u.arrays[name].detach().to(device, _real(tensor)).flatten() for u in updates.values()])
            for name, tensor in self._before.items()
        }

    def weights(self, coalitions: Sequence[frozenset[P]]) -> Tensor:
        """Share of each client in each coalition's average, float64 [coalitions, clients]; zeros for nobody.

        Raises:
            FedsimError: a coalition names a client that sent no update.
        """
        known = set(self.players)
        for coalition in coalitions:
            if not coalition <= known:
                raise invalid("coalition", list(coalition - known), "sent no update", f"Choose from {self.players}")
        member = torch.tensor([[p in coalition for p in self.players] for coalition in coalitions], dtype=torch.float64)
        weighted = member * self._examples
        return weighted / weighted.sum(1, keepdim=True).clamp(min=1)

    def models(self, coalitions: Sequence[frozenset[P]]) -> dict[str, Tensor]:
        """The state of each coalition's model, stacked, ``[coalitions, ...]`` an array.

        Raises:
            FedsimError: as for ``weights``.
        """
        weights = self.weights(coalitions)
        found = {}
        for name, before in self._before.items():
            stacked = self._updates[name]
            change = (weights.to(stacked.device, stacked.dtype) @ stacked).view(len(coalitions), *before.shape)
            if not before.is_floating_point():
                change = change.round().to(before.dtype)
            found[name] = before + change
        return found

    def model(self, coalition: frozenset[P]) -> dict[str, Tensor]:
        """The state of one coalition's model."""
        return {name: stacked[0] for name, stacked in self.models([coalition]).items()}


def _real(tensor: Tensor) -> torch.dtype:
    return tensor.dtype if tensor.is_floating_point() else torch.float64
