"""Local training: many SGD steps (FedAvg) or one gradient (FedSGD), and evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedsim.data import Images, normalised
from fedsim.protocol import Arrays, TrainingPlan

Normalisation = tuple[tuple[float, ...], tuple[float, ...]]
"""Per-channel mean and standard deviation, of images in [0, 1]."""


def load(model: nn.Module, arrays: Arrays) -> None:
    """Put arrays into the model in place, without making tensors anew."""
    with torch.no_grad():
        for name, tensor in model.state_dict(keep_vars=True).items():
            tensor.copy_(arrays[name])


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
    device = next(model.parameters()).device
    parameters = list(model.parameters())
    anchor = [parameter.detach().clone() for parameter in parameters] if proximal else []
    optimiser = torch.optim.SGD(
        parameters, plan.learning_rate_at(round), momentum=plan.momentum, weight_decay=plan.weight_decay
    )
    model.train(plan.mode == "train")
    total, seen = torch.zeros((), device=device), 0
    for chosen in schedule:
        inputs, labels = _batch(data, normalisation, chosen, device)
        optimiser.zero_grad(set_to_none=True)
        loss = functional.cross_entropy(model(inputs), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        for parameter, start in zip(parameters, anchor, strict=False):
            if parameter.grad is not None:  # the gradient of the proximal term, without building its graph
                parameter.grad.add_(parameter.detach() - start, alpha=proximal)
        optimiser.step()
        total += loss.detach() * len(chosen)
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
    model.train(plan.mode == "train")
    inputs, labels = _batch(data, normalisation, chosen, device)
    named = dict(model.named_parameters())
    loss = functional.cross_entropy(model(inputs), labels)
    found = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
    return {
        name: (torch.zeros_like(w) if g is None else g) + (plan.weight_decay * w.detach() if plan.weight_decay else 0)
        for (name, w), g in zip(named.items(), found, strict=True)
    }, float(loss.detach())


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


def _batch(data: Images, normalisation: Normalisation, chosen: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
    return normalised(data.images[chosen].to(device), *normalisation), data.labels[chosen].to(device)
