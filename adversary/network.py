"""The network as the adversary sees it: built from its knowledge, with the weights it observed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call

from fedsim.errors import FedsimError
from fedsim.models import parameter_names
from fedsim.protocol import Arrays, Knowledge, Mode, Observation, TrainingPlan
from fedsim.tasks import Draws, Task
from fedsim.tasks.classification import Classification

CLASSIFICATION = Classification()
NO_DRAWS = Draws()


@dataclass(frozen=True)
class Weights:
    """A network's state on one device: what is trained and what is not.

    Attributes:
        parameters: trained tensors by name, leaves that ask for a gradient.
        buffers: the rest, such as batch-norm statistics.
    """

    parameters: Mapping[str, Tensor]
    buffers: Mapping[str, Tensor]

    def names(self) -> list[str]:
        """Names of the trained tensors, in the network's order."""
        return list(self.parameters)


def build(knowledge: Knowledge, mode: Mode, device: torch.device | str) -> nn.Module:
    """The network in the mode that the client trained in.

    Dropout stays off in both modes: which units a client dropped cannot be known.
    """
    network = knowledge.model().to(device)
    network.train(mode == "train")
    for module in network.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.eval()
    return network


def mode_of(plan: TrainingPlan | None) -> Mode:
    """The mode that a client trains in; ``train``, as nearly every client does, where no plan says."""
    return TrainingPlan().mode if plan is None else plan.mode


def place(network: nn.Module, arrays: Arrays, device: torch.device | str) -> Weights:
    """Copies of the observed arrays on a device, told apart as the network does.

    Raises:
        FedsimError: the arrays are not those of this network.
    """
    own = network.state_dict()
    for name, tensor in own.items():
        if name not in arrays:
            raise FedsimError(
                f"The observed arrays have no {name!r}, which the network has. "
                "Give the adversary the model that the clients train (Knowledge.model)."
            )
        if arrays[name].shape != tensor.shape:
            raise FedsimError(
                f"The observed {name!r} has shape {list(arrays[name].shape)}, the network's has {list(tensor.shape)}. "
                "Give the adversary the model that the clients train (Knowledge.model)."
            )
    trained = parameter_names(network)
    return Weights(
        parameters={name: arrays[name].detach().to(device, copy=True).requires_grad_() for name in trained},
        buffers={name: arrays[name].detach().to(device, copy=True) for name in own if name not in set(trained)},
    )


def logits(network: nn.Module, weights: Weights, inputs: Tensor) -> Tensor:
    """The network's outputs [N, classes]; neither the network nor the weights are changed.

    In train mode batch norm normalises by the inputs' own statistics and would update its running ones;
    it updates copies.
    """
    buffers = weights.buffers
    if network.training:
        buffers = {name: tensor.clone() for name, tensor in buffers.items()}
    outputs: Tensor = functional_call(network, {**weights.parameters, **buffers}, (inputs,))
    return outputs


def loss_gradient(
    network: nn.Module,
    weights: Weights,
    inputs: Tensor,
    labels: Tensor,
    importance: Tensor | None = None,
    *,
    task: Task = CLASSIFICATION,
    draws: Draws = NO_DRAWS,
    create_graph: bool = True,
) -> list[Tensor]:
    """``grad L(w; x, y)``, tensors in the network's order.

    Args:
        network: in the client's mode.
        weights: where; parameters may themselves depend on the inputs, as in a simulated training.
        inputs: as the network is fed, [N, C, H, W].
        labels: int64 [N], or probabilities [N, classes].
        importance: share of each example in the mean, [N], summing to 1; ``None`` for equal shares.
        task: what is trained.
        draws: the random numbers by which the task poses the batch.
        create_graph: whether the result is to be differentiated.
    """
    posed, targets = task.posed(inputs, labels, draws)
    outputs = logits(network, weights, posed)
    loss = task.loss(outputs, targets) if importance is None else (task.each(outputs, targets) * importance).sum()
    return list(torch.autograd.grad(loss, list(weights.parameters.values()), create_graph=create_graph))


def gradients_behind(observation: Observation, weights: Weights) -> list[Tensor]:
    """The update as a mean loss gradient at the weights sent, tensors in the network's order.

    A gradient is itself. A model's update ``sent - received`` is ``eta`` times the sum of the gradients of
    all steps; it is divided by ``eta`` and by the number of steps, and weight decay, which PyTorch adds to
    the gradient, is taken off as if the weights had stayed at those sent. That is exact for one step and an
    approximation for more; momentum then weighs early gradients more, by the factor that is divided out too.
    Where no plan was sent, the positive scale stays unknown and the update is returned as it is.
    """
    device = next(iter(weights.parameters.values())).device
    update = [tensor.detach().to(device) for tensor in observation.update(weights.names())]
    plan = observation.plan
    if observation.kind == "gradient" or plan is None:
        return update
    rate = plan.learning_rate_at(observation.round) * momentum_gain(plan.momentum, plan.steps(observation.examples))
    if rate == 0:
        return update
    decay = plan.weight_decay
    return [u / rate - decay * w.detach() for u, w in zip(update, weights.parameters.values(), strict=True)]


def momentum_gain(momentum: float, steps: int) -> float:
    """How far ``steps`` heavy-ball steps with a constant gradient go, in multiples of the step size.

    The k-th step moves by ``1 + m + ... + m^(k-1)``. Without momentum this is ``steps``.

    >>> momentum_gain(0.0, 5)
    5.0
    >>> momentum_gain(0.5, 2)
    2.5
    """
    velocity, total = 0.0, 0.0
    for _ in range(steps):
        velocity = momentum * velocity + 1.0
        total += velocity
    return total
