"""What the reproduction of ``dmcmc`` samples with: the model of a federation, and the server's classifier of levels."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from safetensors.torch import load_file, save_file
from torch import Tensor

from experiments import Experiment
from experiments.distilling import teacher_of
from fedsim import seeding
from fedsim.diffusion import Denoiser, Schedule, at_levels, denoiser, seeded_noise
from fedsim.diffusion.dmcmc import Joint, LevelLogits
from fedsim.diffusion.level_classifier import (
    LevelClassifier,
    build_classifier,
    classification_loss,
    learned_classifier,
    level_indices,
)
from fedsim.diffusion.levels import geometric, highest
from fedsim.errors import invalid

CONSOLE = Console(stderr=True)

LEVELS, LOWEST, HIGHEST = 1000, 0.02, 80.0
"""Noise levels of the chain, for images in [-1, 1]. The cosine schedule of 1000 steps ends at a level of 20,291, which
costs single precision its digits and says nothing that the level 71, at step 990, does not say."""
BATCH = 64


@dataclass(frozen=True, eq=False)
class Model:
    """The federation's model, in both coordinates.

    Attributes:
        experiment: it comes of.
        schedule: of its noise.
        steps: the images that it sees at steps.
        joint: those that it sees at levels, with the classifier of levels.
    """

    experiment: Experiment
    schedule: Schedule
    steps: Denoiser
    joint: Joint


def opened(folder: Path, weights: Path, *, steps: int) -> Model:
    """The moving average of a finished run, and a classifier of levels that has learned on the server's own images.

    Args:
        folder: of the run.
        weights: of the classifier, a safetensors file; written if it is not there.
        steps: of the classifier's training.

    Raises:
        FedsimError: the run is not one of a diffusion, or not finished.
    """
    experiment, task, network = teacher_of(folder)
    schedule = task.goal.schedule
    levels = geometric(LEVELS, LOWEST, highest(schedule, HIGHEST))
    estimate = denoiser(network, schedule, task.prediction, bound=1.0)
    classify = level_classifier(in_range(own_images(experiment)), levels, weights, steps=steps)
    return Model(experiment, schedule, estimate, Joint(at_levels(estimate, schedule), classify, levels))


def own_images(experiment: Experiment) -> Tensor:
    """Images that the server has of its own, uint8 [N, C, H, W].

    Raises:
        FedsimError: it has none.
    """
    if experiment.validation is None:
        raise invalid("data.validation_size", 0, "the classifier of levels learns on the server's own images", "Set it")
    return experiment.validation.images


def in_range(images: Tensor) -> Tensor:
    """Images from uint8 to [-1, 1]."""
    return images.float() / 127.5 - 1


def level_classifier(images: Tensor, levels: Tensor, weights: Path, *, steps: int) -> LevelClassifier:
    """The classifier of levels of images in [-1, 1]; from the file, if it has been trained before."""
    channels, height, width = images.shape[1:]
    if weights.is_file():
        network = build_classifier((channels, height, width), len(levels))
        network.load_state_dict(load_file(weights))
        return network
    recent: list[float] = []

    def told(step: int, loss: float) -> None:
        recent.append(loss)
        if step % 100 == 0:
            CONSOLE.print(f"classifier of levels: step {step} of {steps}, loss {sum(recent) / len(recent):.3f} nats")
            recent.clear()

    network = learned_classifier(images, levels, steps=steps, seed=0, batch_size=BATCH, told=told)
    weights.parent.mkdir(parents=True, exist_ok=True)
    save_file(network.state_dict(), weights)
    return network


@torch.no_grad()
def classifier_loss(classify: LevelLogits, images: Tensor, levels: Tensor) -> float:
    """Cross-entropy in nats on images in [-1, 1], each at a level drawn evenly."""
    draws = seeding.generator(0, "dmcmc", "classifier", "check")
    k = level_indices(len(images), len(levels), draws)
    noise = seeded_noise(draws)(images)
    losses = []
    for own in torch.split(torch.arange(len(images)), 500):
        loss = classification_loss(classify, images[own], noise[own], k[own], levels)
        losses.append(loss * len(own))
    return float(sum(losses) / len(images))
