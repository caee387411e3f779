"""Victims for the tests: real images, small networks, and what a server would overhear of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from clients import batches, training
from fedsim import models
from fedsim.data import load
from fedsim.protocol import Knowledge, Observation, TrainingPlan
from fedsim.tasks import Draws, Task

SHAPE = (1, 28, 28)


@dataclass(frozen=True)
class Victim:
    observation: Observation
    knowledge: Knowledge
    images: Tensor
    labels: Tensor


def clothes(positions: list[int]) -> tuple[Tensor, Tensor]:
    """Fashion-MNIST images in [0, 1] and labels, from the slice that ships with fedsim."""
    batch = load("fashion_mnist_small").test.subset(torch.tensor(positions))
    return batch.images.float() / 255, batch.labels


def trained(network: nn.Module, steps: int, learning_rate: float = 0.05) -> nn.Module:
    """The network after some steps of Adam on real images."""
    data = load("fashion_mnist_small").train
    optimiser = torch.optim.Adam(network.parameters(), lr=learning_rate)
    draws = torch.Generator().manual_seed(0)
    for _ in range(steps):
        batch = data.subset(torch.randint(len(data), (64,), generator=draws))
        optimiser.zero_grad()
        functional.cross_entropy(network(batch.images.float() / 255), batch.labels).backward()
        optimiser.step()
    optimiser.zero_grad(set_to_none=True)
    return network


def state(network: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}


def gradient_of(network: nn.Module, inputs: Tensor, labels: Tensor) -> dict[str, Tensor]:
    names, parameters = zip(*network.named_parameters(), strict=True)
    found = torch.autograd.grad(functional.cross_entropy(network(inputs), labels), parameters)
    return dict(zip(names, found, strict=True))


def overhear_gradient(
    images: Tensor,
    labels: Tensor,
    *,
    model: str = "lenet",
    network: nn.Module | None = None,
    seed: int = 0,
    mean: float = 0.0,
    std: float = 1.0,
) -> Victim:
    """One gradient of a batch, by default of a fresh network in evaluation mode."""
    make = models.builder(model, tuple(images.shape[1:]), 10, seed=seed)
    network = make() if network is None else network
    gradient = gradient_of(network, (images - mean) / std, labels)
    plan = TrainingPlan(algorithm="fedsgd", batch_size=None, mode="eval")
    observation = Observation(1, 0, state(network), gradient, "gradient", len(labels), plan)
    return Victim(observation, Knowledge(make, tuple(images.shape[1:]), 10, (mean,), (std,)), images, labels)


def overhear_model(
    images: Tensor, labels: Tensor, plan: TrainingPlan, *, model: str = "cnn", network: nn.Module | None = None
) -> Victim:
    """A model after local training in the order of the images, by PyTorch's own SGD."""
    make = models.builder(model, tuple(images.shape[1:]), 10, seed=0)
    network = make() if network is None else network
    sent = state(network)
    network.train(plan.mode == "train")
    sgd = torch.optim.SGD(
        network.parameters(), lr=plan.learning_rate, momentum=plan.momentum, weight_decay=plan.weight_decay
    )
    size = plan.batches_of(len(labels))
    starts = [start for _ in range(plan.local_epochs) for start in range(0, len(labels), size)]
    for start in starts:
        sgd.zero_grad()
        functional.cross_entropy(network(images[start : start + size]), labels[start : start + size]).backward()
        sgd.step()
    observation = Observation(1, 0, sent, state(network), "model", len(labels), plan)
    return Victim(observation, Knowledge(make, tuple(images.shape[1:]), 10), images, labels)


def overhear_client(
    positions: list[int],
    plan: TrainingPlan,
    *,
    model: str = "cnn",
    round: int = 1,
    network: nn.Module | None = None,
    **parameters: Any,
) -> Victim:
    """What a client of fedsim sends after its own local training; its labels and order of batches are granted."""
    data = load("fashion_mnist_small").test.subset(torch.tensor(positions))
    make = models.builder(model, SHAPE, 10, seed=0, **parameters)
    network = make() if network is None else network
    sent = state(network)
    order = batches(plan, len(data), seed=0, client=0, round=round)
    mean, std = (0.3,), (0.35,)
    training.local_steps(network, data, (mean, std), order, plan, round=round)
    observation = Observation(round, 0, sent, state(network), "model", len(data), plan)
    knowledge = Knowledge(make, SHAPE, 10, mean, std, labels=data.labels, batch_order=tuple(order))
    return Victim(observation, knowledge, data.images.float() / 255, data.labels)


def psnr(found: Tensor, truth: Tensor) -> float:
    return float(10 * torch.log10(1 / (found - truth).square().mean()))


def overhear_denoising(
    images: Tensor, task: Task, draws: Draws, *, widths: tuple[int, ...] = (8,), labels: Tensor | None = None
) -> Victim:
    """The gradient of one diffusion loss of a fresh UNet; what was drawn for it is granted, set A, labels are not."""
    shape = (int(images.shape[1]), int(images.shape[2]), int(images.shape[3]))
    given = {"widths": widths, "groups": 4, "attention": False}

    def make() -> nn.Module:
        return task.build("unet", shape, 10, given, seed=0)

    network = make()
    labels = torch.zeros(len(images), dtype=torch.int64) if labels is None else labels
    posed, targets = task.posed(images * 2 - 1, labels, draws)
    names, parameters = zip(*network.named_parameters(), strict=True)
    found = torch.autograd.grad(task.loss(network(posed), targets), parameters)
    plan = TrainingPlan(algorithm="fedsgd", batch_size=None, loss=task.objective)
    seen = Observation(1, 0, state(network), dict(zip(names, found, strict=True)), "gradient", len(images), plan)
    knowledge = Knowledge(make, shape, 10, (0.5,), (0.5,), task=task, noise=draws.noise, steps=draws.steps)
    return Victim(seen, knowledge, images, labels)
