"""Local training: many SGD steps (FedAvg) or one gradient (FedSGD), and evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import cast

import torch
from torch import Tensor, nn
from torch.optim.sgd import sgd

from clients.gradients import gradients
from fedsim.data import Images, normalised
from fedsim.protocol import Arrays, TrainingPlan
from fedsim.tasks import Normalisation, Occasion, Task
from fedsim.tasks.classification import Classification

CLASSIFICATION = Classification()

_EVALUATION = Occasion()


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
    task: Task = CLASSIFICATION,
    occasion: Occasion = _EVALUATION,
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
        task: what is trained.
        occasion: of the first step, for the task's random numbers.

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
    for step, chosen in enumerate(schedule):
        inputs, targets = task.pose(*_batch(data, normalisation, chosen, device), occasion.at(step))
        with _precision(plan, device):
            found, loss = gradients(model, inputs, targets, examples=len(data), loss=task.loss, parameters=parameters)
        momenta = _step(parameters, found, momenta, plan, learning_rate, anchor, proximal)
        total += loss * len(chosen)
        seen += len(chosen)
    return float(total) / seen


def gradient(
    model: nn.Module,
    data: Images,
    normalisation: Normalisation,
    chosen: Tensor,
    plan: TrainingPlan,
    *,
    task: Task = CLASSIFICATION,
    occasion: Occasion = _EVALUATION,
) -> tuple[dict[str, Tensor], float]:
    """One gradient of the mean loss over the chosen examples, and that loss.

    Weight decay, if any, is part of the loss: its gradient is added. A parameter that does not enter the
    loss has a gradient of zeros.
    """
    device = next(model.parameters()).device
    _set_mode(model, plan)
    inputs, targets = task.pose(*_batch(data, normalisation, chosen, device), occasion)
    with _precision(plan, device):
        found, loss = gradients(model, inputs, targets, examples=len(data), loss=task.loss)
    return {
        name: (torch.zeros_like(w) if g is None else g) + (plan.weight_decay * w.detach() if plan.weight_decay else 0)
        for (name, w), g in zip(model.named_parameters(), found, strict=True)
    }, float(loss)


@torch.no_grad()
def evaluate(
    model: nn.Module,
    data: Images,
    normalisation: Normalisation,
    batch_size: int = 500,
    *,
    task: Task = CLASSIFICATION,
) -> Mapping[str, float]:
    """The task's metrics of the model in evaluation mode, each the mean over all of the data."""
    device = next(model.parameters()).device
    model.eval()
    totals = dict.fromkeys(task.metrics, 0.0)
    for step, chosen in enumerate(torch.split(torch.arange(len(data)), batch_size)):
        inputs, targets = task.pose(*_batch(data, normalisation, chosen, device), _EVALUATION.at(step))
        outputs = model(inputs)
        for metric in totals:
            totals[metric] += float(task.total(metric, outputs, targets))
    return {metric: total / len(data) for metric, total in totals.items()}


@torch.no_grad()
def square_loss(
    model: nn.Module,
    data: Images,
    normalisation: Normalisation,
    chosen: Tensor,
    batch_size: int = 500,
    *,
    task: Task = CLASSIFICATION,
    occasion: Occasion = _EVALUATION,
) -> float:
    """Mean over the chosen examples of the squared loss of each, the model in evaluation mode."""
    device = next(model.parameters()).device
    model.eval()
    total = 0.0
    for step, part in enumerate(torch.split(chosen, batch_size)):
        inputs, targets = task.pose(*_batch(data, normalisation, part, device), occasion.at(step))
        total += float(task.each(model(inputs), targets).square().sum())
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
    if len(used) == len(parameters) and not (proximal or plan.momentum or plan.weight_decay):  # all at once
        torch._foreach_add_(list(parameters), cast("list[Tensor]", list(computed)), alpha=-learning_rate)
        return list(momenta)
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
