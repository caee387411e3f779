"""What an update still tells of its examples, to an adversary that knows the clients' defences."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fedsim.models import array_is_in, parameter_names
from fedsim.protocol import DeclaredDefence, Observation

_ZEROING = {"pruning", "sparsification"}
_NOISES = {"gaussian_noise", "laplacian_noise"}
_ROUNDING = 1e-4
"""How far below its norm, relatively, rounding may leave an update that was clipped to it."""


@dataclass(frozen=True)
class View:
    """One observation, read in the light of the defences.

    Attributes:
        told: by name of each trained tensor, bool and of its shape: the entries that tell of the examples.
        factor: by which the update is multiplied to have its scale again.
        scaled: whether its scale is known.
        at_random: whether entries were left out at random.
        bounded: whether entries were left out because they were smaller than those sent of their tensor.
        noise: standard deviation of the noise on each entry of the update, in the update's units.
        share_of_noise: of the squared length of the entries that tell, in [0, 1].
    """

    told: Mapping[str, Tensor]
    factor: float
    scaled: bool
    at_random: bool
    bounded: bool
    noise: float
    share_of_noise: float

    @property
    def plain(self) -> bool:
        """Whether knowing the defences changes nothing."""
        return self.scaled and self.factor == 1 and self.noise == 0 and all(bool(m.all()) for m in self.told.values())

    def silent(self, name: str) -> bool:
        """Whether nothing of a tensor tells."""
        return name in self.told and not bool(self.told[name].any())

    @property
    def entries(self) -> int:
        """How many entries tell."""
        return sum(int(m.sum()) for m in self.told.values())

    @property
    def share_left_out(self) -> float:
        """Share of the entries that do not tell."""
        return 1 - self.entries / max(1, sum(m.numel() for m in self.told.values()))


def view(observation: Observation, network: nn.Module, defences: Sequence[DeclaredDefence]) -> View:
    """What is known of an observation once the defences are.

    - pruning, sparsification: an entry of zero was left out. Where pruning, as the last defence, left fewer entries
      than it sends, all that it left out was zero, which tells. Pruning alone leaves out no entry larger than those
      that it sends.
    - withholding: the layers named tell nothing.
    - soteria: of one example the layer's columns of zero tell nothing; of several, nothing in its weight is
      consistent.
    - clipping: an update as long as the norm has lost its scale. A shorter one was not touched; but where clipping is
      not the last defence, its scale counts as lost.
    - dp_sgd: the scale is lost, and there is noise on each step.
    - quantisation and half precision: nothing.
    """
    names = parameter_names(network)
    update = dict(zip(names, observation.update(names), strict=True))
    told = _told(update, observation, network, defences)
    factor, scaled = _scale(update, defences)
    variance = sum(_variance(observation, defence) for defence in defences)
    telling = sum(float(u[told[name]].double().square().sum()) for name, u in update.items())
    entries = sum(int(m.sum()) for m in told.values())
    share = min(1.0, entries * variance / telling) if telling else 0.0
    at_random = any(defence.name == "sparsification" for defence in defences)
    return View(told, factor, scaled, at_random, _bounded(observation, defences), math.sqrt(variance), share)


def _told(
    update: Mapping[str, Tensor], observation: Observation, network: nn.Module, defences: Sequence[DeclaredDefence]
) -> dict[str, Tensor]:
    told = {name: torch.ones_like(u, dtype=torch.bool) for name, u in update.items()}
    for position, defence in enumerate(defences):
        given, last = defence.parameters, position == len(defences) - 1
        if defence.name in _ZEROING:
            exactly = float(given["share"]) if defence.name == "pruning" and last else None
            told = {name: m & _sent(update[name], exactly) for name, m in told.items()}
        elif defence.name == "withholding":
            told = {name: m & (not _is_in(name, given["layers"])) for name, m in told.items()}
        elif defence.name == "soteria":
            layer = f"{given.get('layer') or last_linear(network)}.weight".removeprefix(".")
            told[layer] = told[layer] & _columns(update[layer], observation)
    return told


def _scale(update: Mapping[str, Tensor], defences: Sequence[DeclaredDefence]) -> tuple[float, bool]:
    length = math.sqrt(sum(float(u.double().square().sum()) for u in update.values()))
    factor, scaled = 1.0, True
    for position, defence in enumerate(defences):
        given, last = defence.parameters, position == len(defences) - 1
        if defence.name == "sparsification" and given.get("unbiased", True):
            factor *= 1 - float(given["share"])
        if defence.name == "clipping":  # what follows changes the length, and hides whether it was clipped
            scaled = scaled and last and length < float(given["norm"]) * (1 - _ROUNDING)
        if defence.name == "dp_sgd":
            scaled = False
    return factor, scaled


def _variance(observation: Observation, defence: DeclaredDefence) -> float:
    """Of the noise on an entry of the update."""
    if defence.name in _NOISES:
        return float(defence.parameters["standard_deviation"]) ** 2
    if defence.name == "dp_sgd":
        deviation = float(defence.parameters["norm"]) * float(defence.parameters["noise_multiplier"])
        return _of_dp_sgd(observation, deviation)
    return 0.0


def _bounded(observation: Observation, defences: Sequence[DeclaredDefence]) -> bool:
    """Pruning alone; in later rounds the bound is not on the update but on what was kept back together with it."""
    if [defence.name for defence in defences] != ["pruning"]:
        return False
    return observation.round == 1 or not defences[0].parameters.get("error_feedback", True)


def _is_in(array: str, layers: Sequence[str]) -> bool:
    return any(array_is_in(array, layer) for layer in layers)


def _sent(u: Tensor, share: float | None) -> Tensor:
    """The entries that were not left out; ``share`` where exactly that share of entries was."""
    kept = u != 0
    if share is not None and int(kept.sum()) < max(1, u.numel() - round(share * u.numel())):
        return torch.ones_like(kept)
    return kept


def _columns(weight: Tensor, observation: Observation) -> Tensor:
    plan = observation.plan
    steps = 1 if observation.kind == "gradient" else (plan.steps(observation.examples) if plan else 2)
    if observation.examples == 1 and steps == 1:
        return weight.any(0).expand_as(weight)
    return torch.zeros_like(weight, dtype=torch.bool)


def last_linear(network: nn.Module) -> str:
    """Name of the last linear layer."""
    names: list[str] = [name for name, module in network.named_modules() if isinstance(module, nn.Linear)]
    return names[-1]


def _of_dp_sgd(observation: Observation, deviation: float) -> float:
    """For updates without momentum; ``deviation`` is that of the noise on the sum over a batch."""
    plan, examples = observation.plan, observation.examples
    if observation.kind == "gradient":
        return (deviation / examples) ** 2
    if plan is None:
        return 0.0
    step = plan.learning_rate_at(observation.round) * deviation / min(plan.batches_of(examples), examples)
    return plan.steps(examples) * step**2
