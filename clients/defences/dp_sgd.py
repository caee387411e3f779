"""Differentially private SGD, with its accountant."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.modules.batchnorm import _BatchNorm

from clients.defences.defence import DEFENCES, Memory, Site
from clients.gradients import Loss, StepRule
from fedsim.errors import FedsimError, invalid
from fedsim.protocol import TrainingPlan


@DEFENCES.register("dp_sgd")
@dataclass(frozen=True)
class DPSGD:
    """Clip each example's gradient and add Gaussian noise, in every local step.

    Abadi et al., CCS 2016, arXiv:1607.00133, algorithm 1: of a batch of B examples with gradients ``g_i``

        g = (sum_i g_i min(1, C / |g_i|) + N(0, sigma^2 C^2 I)) / B

    Each reply tells ``dp-epsilon``, what the client has spent in all rounds so far at ``dp-delta``, by opacus's
    accountant of Rényi differential privacy. It holds for a client's examples against whoever sees its updates,
    under Poisson sampling at the rate B over the client's examples. Batches here are cut from shuffled data, as nearly
    everywhere; only with the whole shard as the batch is there no difference. The training loss that a client reports
    is not private, nor are its numbers of examples.

    Attributes:
        norm: C, the longest that the gradient of one example may be.
        noise_multiplier: sigma, in multiples of C.
        delta: at which epsilon is told; it should be far below 1 over the examples of a client.
        at_once: examples whose gradients are held in memory together; no result depends on it but for rounding.
    """

    norm: float
    noise_multiplier: float
    delta: float = 1e-5
    at_once: int = 64

    remembers: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0 < self.norm < math.inf:
            raise invalid("defence dp_sgd: norm", self.norm, "must be more than 0", "Correct it")
        if not 0 <= self.noise_multiplier < math.inf:
            raise invalid("defence dp_sgd: noise_multiplier", self.noise_multiplier, "must be 0 or more", "Correct it")
        if not 0 < self.delta < 1:
            raise invalid("defence dp_sgd: delta", self.delta, "must be in (0, 1)", "1e-5 is usual")
        if self.at_once < 1:
            raise invalid("defence dp_sgd: at_once", self.at_once, "must be 1 or more", "Correct it")

    def check(self, model: nn.Module, plan: TrainingPlan) -> None:
        """Find what would fail later.

        Raises:
            FedsimError: batch norm mixes the examples of a batch, or opacus is not installed.
        """
        refuse_batch_norm(model, training=plan.mode == "train")
        epsilon({}, self.delta)

    def step(self, site: Site) -> StepRule:
        """The rule of algorithm 1; each step is entered into the account."""
        draws = site.generator()

        def rule(
            model: nn.Module, inputs: Tensor, labels: Tensor, *, examples: int, loss: Loss
        ) -> tuple[list[Tensor | None], Tensor]:
            refuse_batch_norm(model, training=model.training)
            total, value = clipped_sum(model, inputs, labels, self.norm, loss, self.at_once)
            size = len(inputs)
            found: list[Tensor | None] = []
            for name, parameter in model.named_parameters():
                if name in total:
                    noise = torch.randn(parameter.shape, generator=draws).to(total[name])
                    found.append((total[name] + self.noise_multiplier * self.norm * noise) / size)
                else:
                    found.append(None)
            enter(site.memory, self.noise_multiplier, min(1.0, size / examples))
            return found, value

        return rule

    def report(self, site: Site) -> Mapping[str, float]:
        """The privacy spent so far."""
        return {"dp-epsilon": epsilon(site.memory.numbers(), self.delta), "dp-delta": self.delta}


def clipped_sum(
    model: nn.Module, inputs: Tensor, labels: Tensor, norm: float, loss: Loss, at_once: int
) -> tuple[dict[str, Tensor], Tensor]:
    """``sum_i g_i min(1, C / |g_i|)`` by name, over the parameters that are trained, and the mean loss.

    Args:
        model: its parameters stay as they are.
        inputs: [B, ...].
        labels: [B, ...].
        norm: C.
        loss: mean over a batch.
        at_once: examples whose gradients are held together.
    """
    trained = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
    fixed = {name: p.detach() for name, p in model.named_parameters() if not p.requires_grad}
    fixed |= dict(model.named_buffers())

    def of_one(parameters: dict[str, Tensor], x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        value = loss(functional_call(model, {**parameters, **fixed}, (x[None],)), y[None])
        return value, value.detach()

    each = vmap(grad(of_one, has_aux=True), in_dims=(None, 0, 0), randomness="different")
    total = {name: torch.zeros_like(p) for name, p in trained.items()}
    losses = []
    for x, y in zip(torch.split(inputs, at_once), torch.split(labels, at_once), strict=True):
        gradients, values = each(trained, x, y)
        squares = torch.stack([g.flatten(1).square().sum(1) for g in gradients.values()])
        factors = (norm / squares.sum(0).sqrt()).clamp(max=1)  # NaN stays NaN
        for name, g in gradients.items():
            total[name] += torch.tensordot(factors.to(g), g, dims=1)
        losses.append(values)
    return total, torch.cat(losses).mean()


def enter(memory: Memory, noise_multiplier: float, rate: float) -> None:
    """Book one step."""
    spent = memory.numbers() or {"noise": [], "rate": [], "steps": []}
    kinds = list(zip(spent["noise"], spent["rate"], strict=True))
    if (noise_multiplier, rate) in kinds:
        spent["steps"][kinds.index((noise_multiplier, rate))] += 1.0
    else:
        for key, value in (("noise", noise_multiplier), ("rate", rate), ("steps", 1.0)):
            spent[key] = [*spent[key], value]
    memory.keep_numbers(spent)


def epsilon(spent: Mapping[str, list[float]], delta: float) -> float:
    """What the steps booked cost together, by opacus's RDP accountant.

    Raises:
        FedsimError: opacus is not installed.
    """
    try:
        from opacus.accountants import RDPAccountant
    except ImportError as error:
        raise FedsimError(
            "The defence 'dp_sgd' needs opacus for its accountant. Run: pip install fedsim[dp]"
        ) from error
    if not spent:
        return 0.0
    if min(spent["noise"]) == 0:
        return math.inf
    accountant = RDPAccountant()
    columns = zip(spent["noise"], spent["rate"], spent["steps"], strict=True)
    accountant.history = [(noise, rate, round(steps)) for noise, rate, steps in columns]
    return float(accountant.get_epsilon(delta=delta))


def refuse_batch_norm(model: nn.Module, *, training: bool) -> None:
    """Raise for a network in which one example's gradient depends on the others.

    Raises:
        FedsimError: it has batch norm in training mode.
    """
    named = next((name for name, module in model.named_modules() if isinstance(module, _BatchNorm)), None)
    if named is not None and training:
        raise invalid(
            "defence dp_sgd: model",
            named,
            "is batch norm, which mixes the examples of a batch, so that none has a gradient of its own to clip",
            'Choose a model without it, or training.mode = "eval", which freezes its statistics',
        )
