"""Local training: many SGD steps (FedAvg) or one gradient (FedSGD), and evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.sgd import sgd

from clients.gradients import gradients
from fedsim.data import Images, normalised
from fedsim.protocol import Arrays, TrainingPlan

Normalisation = tuple[tuple[float, ...], tuple[float, ...]]
"""Per-channel mean and standard deviation, of images in [0, 1]."""


@torch.no_grad()
def load(state: Arrays, arrays: Arrays) -> None:
    """Put arrays into a model in place, whose ``state_dict()`` is given, without making tensors anew."""
    torch._foreach_copy_(list(state.values()), [arrays[name] for name in state])


def local_steps(
    model: nn.Module,
    data: Images,
    normalisation: Normalisation,
    schedule: Sequence[Tensor],
    plan: TrainingPlan,
    *,
    round: int,
    proximal: float = 0.0,
) -> float:
    """SGD over the scheduled batches, on the model in place (McMahan et al. 2017, ClientUpdate).

    Args:
        model: at the global weights.
        data: the client's shard.
        normalisation: mean and standard deviation to feed the model with.
        schedule: positions in the shard, a tensor a step.
        plan: what the server ordered.
        round: for the learning rate's decay.
        proximal: FedProx's mu; adds mu / 2 * ||w - w_global||^2 to the loss (Li et al. 2020, eq. 2).

    Returns:
        The mean loss over all examples used.
    """
    parameters = list(model.parameters())
    device = parameters[0].device
    anchor = [parameter.detach().clone() for parameter in parameters] if proximal else []
    momenta: list[Tensor | None] = [None] * len(parameters)
    learning_rate = plan.learning_rate_at(round)
    _set_mode(model, plan)
    total, seen = torch.zeros((), device=device), 0
    for chosen in schedule:
        inputs, labels = _batch(data, normalisation, chosen, device)
        with _precision(plan, device):
            found, loss = gradients(model, inputs, labels, examples=len(data), parameters=parameters)
        momenta = _step(parameters, found, momenta, plan, learning_rate, anchor, proximal)
        total += loss * len(chosen)
        seen += len(chosen)
    return float(total) / seen


def gradient(
    model: nn.Module, data: Images, normalisation: Normalisation, chosen: Tensor, plan: TrainingPlan
) -> tuple[dict[str, Tensor], float]:
    """One gradient of the mean loss over the chosen examples, and that loss.

    Weight decay, if any, is part of the loss: its gradient is added. A parameter that does not enter the
    loss has a gradient of zeros.
    """
    device = next(model.parameters()).device
    _set_mode(model, plan)
    inputs, labels = _batch(data, normalisation, chosen, device)
    with _precision(plan, device):
        found, loss = gradients(model, inputs, labels, examples=len(data))
    return {
        name: (torch.zeros_like(w) if g is None else g) + (plan.weight_decay * w.detach() if plan.weight_decay else 0)
        for (name, w), g in zip(model.named_parameters(), found, strict=True)
    }, float(loss)


@torch.no_grad()
def evaluate(
    model: nn.Module, data: Images, normalisation: Normalisation, batch_size: int = 500
) -> Mapping[str, float]:
    """Mean cross-entropy and accuracy of the model in evaluation mode, over all of the data."""
    device = next(model.parameters()).device
    model.eval()
    loss, right = 0.0, 0
    for chosen in torch.split(torch.arange(len(data)), batch_size):
        inputs, labels = _batch(data, normalisation, chosen, device)
        logits = model(inputs)
        loss += float(functional.cross_entropy(logits, labels, reduction="sum"))
        right += int((logits.argmax(1) == labels).sum())
    return {"loss": loss / len(data), "accuracy": right / len(data)}


@torch.no_grad()
def square_loss(
    model: nn.Module, data: Images, normalisation: Normalisation, chosen: Tensor, batch_size: int = 500
) -> float:
    """Mean over the chosen examples of the squared cross-entropy of each, the model in evaluation mode."""
    device = next(model.parameters()).device
    model.eval()
    total = 0.0
    for part in torch.split(chosen, batch_size):
        inputs, labels = _batch(data, normalisation, part, device)
        total += float(functional.cross_entropy(model(inputs), labels, reduction="none").square().sum())
    return total / len(chosen)


def _set_mode(model: nn.Module, plan: TrainingPlan) -> None:
    """As the plan orders; a model that is in it already is not gone through again."""
    if model.training != (plan.mode == "train"):
        model.train(plan.mode == "train")


def _precision(plan: TrainingPlan, device: torch.device) -> AbstractContextManager[object]:
    """In force while a network is computed; weights, their gradients and the loss are in float32 in any case."""
    return torch.autocast(device.type, torch.bfloat16) if plan.precision == "bf16" else nullcontext()


@torch.no_grad()
def _step(
    parameters: Sequence[Tensor],
    computed: Sequence[Tensor | None],
    momenta: Sequence[Tensor | None],
    plan: TrainingPlan,
    learning_rate: float,
    anchor: Sequence[Tensor],
    proximal: float,
) -> list[Tensor | None]:
    """One SGD step in place, as ``torch.optim.SGD`` takes it, without what that does around it; the new momenta."""
    used = [i for i, found in enumerate(computed) if found is not None]
    found = [cast("Tensor", computed[i]) for i in used]
    if proximal:  # the gradient of the proximal term, without building its graph
        found = [g + proximal * (parameters[i] - anchor[i]) for i, g in zip(used, found, strict=True)]
    kept = [momenta[i] for i in used]
    sgd(
        [parameters[i] for i in used],
        found,
        kept,
        foreach=False,
        weight_decay=plan.weight_decay,
        momentum=plan.momentum,
        lr=learning_rate,
        dampening=0.0,
        nesterov=False,
        maximize=False,
    )
    after = dict(zip(used, kept, strict=True))
    return [after.get(i) for i in range(len(parameters))]


def _batch(data: Images, normalisation: Normalisation, chosen: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
    return normalised(data.images[chosen].to(device), *normalisation), data.labels[chosen].to(device)
