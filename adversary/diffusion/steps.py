"""The diffusion step of an observed gradient, read from the gradient of the time embedding's first layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from adversary.network import build, gradients_behind, mode_of, place
from fedsim.errors import FedsimError
from fedsim.protocol import Knowledge, Observation
from fedsim.tasks.diffusion import Diffusion


def embeddings(network: nn.Module, steps: int) -> Tensor:
    """The embedding ``e(s)`` that the network's time network is fed at each step, float64 [T, d_e].

    Raises:
        FedsimError: the network has no sinusoidal embedding followed by a linear layer, as diffusers' UNets have.
    """
    _, found = _time_network(network)
    module: Any = found
    with torch.no_grad():
        table: Tensor = module.time_proj(torch.arange(steps))
    return table.double()


def read_step(network: nn.Module, gradients: Mapping[str, Tensor], steps: int) -> int:
    """The step of one example: the outer product ``grad A = delta e(t)^T`` with ``grad b = delta`` gives ``e(t)``.

    It is exact for every network that embeds the step in a linear layer with a bias, trained or not.

    Args:
        network: that was trained.
        gradients: of one example's loss, by parameter name.
        steps: T of the schedule.

    Raises:
        FedsimError: the network has no such layer, or its gradient is absent or zero.
    """
    weight, bias = _first_layer(network, gradients)
    if not bool(bias.any()):
        raise FedsimError("The gradient of the time network's first bias is zero, so that no step can be read from it.")
    embedding = weight.T @ bias / bias.square().sum()
    return int((embeddings(network, steps) - embedding).square().sum(1).argmin())


def read_steps(
    network: nn.Module, gradients: Mapping[str, Tensor], steps: int, *, tolerance: float = 1e-4
) -> tuple[list[int], int]:
    """The steps whose embedding lies in the row space of a batch's gradient, and the rank of that space.

    The rank is the number of distinct steps of the batch, unless they are more than the layer can tell apart. There
    may be false candidates among the steps: then they are more than the rank.

    Args:
        network: that was trained.
        gradients: of a batch's mean loss, by parameter name.
        steps: T of the schedule.
        tolerance: singular values below this share of the largest, and the relative distance of an embedding from the
            row space below which it is in it; gradients in float32 allow 1e-4.

    Raises:
        FedsimError: the network has no such layer, or its gradient is absent.
    """
    weight, _ = _first_layer(network, gradients)
    _, values, rows = torch.linalg.svd(weight, full_matrices=False)
    rank = int((values > tolerance * values[0]).sum())
    table = embeddings(network, steps)
    outside = table - table @ rows[:rank].T @ rows[:rank]
    found = (outside.norm(dim=1) < tolerance * table.norm(dim=1)).nonzero().flatten()
    return [int(step) for step in found], rank


def with_steps(knowledge: Knowledge, observation: Observation) -> Knowledge:
    """The knowledge with the step of the victim's example, read from its gradient if it was not granted.

    Raises:
        FedsimError: it was not granted, and cannot be read: of several examples, another task, or another network.
    """
    if knowledge.steps is not None:
        return knowledge
    task = knowledge.task
    if not isinstance(task, Diffusion):
        raise FedsimError(f"The steps of the loss {task.objective!r} cannot be read from a gradient. Grant 'steps'.")
    if observation.examples != 1:
        raise FedsimError(
            f"The update rests on {observation.examples} examples: which step is whose cannot be read from it. "
            "Grant 'steps', or attack updates of one example."
        )
    network = build(knowledge, mode_of(observation.plan), "cpu")
    weights = place(network, observation.sent, "cpu")
    gradients = dict(zip(weights.names(), gradients_behind(observation, weights), strict=True))
    return replace(knowledge, steps=torch.tensor([read_step(network, gradients, len(task.goal.schedule))]))


def _time_network(network: nn.Module) -> tuple[str, nn.Module]:
    for name, module in network.named_modules():
        inner = getattr(module, "time_embedding", None)
        if hasattr(module, "time_proj") and isinstance(getattr(inner, "linear_1", None), nn.Linear):
            return name, module
    raise FedsimError(
        f"network = {type(network).__name__!r}: it has no time_proj followed by time_embedding.linear_1, as the UNets "
        "of diffusers have, from which a step could be read. Use such a network, or grant the step."
    )


def _first_layer(network: nn.Module, gradients: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """The gradients of weight and bias, float64 [d, d_e] and [d]."""
    name, _ = _time_network(network)
    layer = f"{name}.time_embedding.linear_1" if name else "time_embedding.linear_1"
    missing = [key for key in (f"{layer}.weight", f"{layer}.bias") if key not in gradients]
    if missing:
        raise FedsimError(
            f"gradients: {missing} are absent, from which the step is read. Observe the time network too."
        )
    return gradients[f"{layer}.weight"].double().cpu(), gradients[f"{layer}.bias"].double().cpu()
