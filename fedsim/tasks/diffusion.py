"""Diffusion: the noise in an image, or its velocity, at a random step of a schedule.

The network is fed one tensor and its answer is compared with one, as defences that take batches apart need it: the
step is a plane below the noisy image, and the weight of the example's loss a plane below what should be answered.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor, nn

from fedsim import seeding
from fedsim.diffusion import (
    SCHEDULES,
    Network,
    Noise,
    Objective,
    Prediction,
    Schedule,
    at_levels,
    build,
    ddim,
    ddpm,
    denoiser,
    heun,
    seeded_noise,
    zero_terminal,
)
from fedsim.diffusion.integrators import Integrator
from fedsim.diffusion.levels import highest, karras
from fedsim.diffusion.objective import Error
from fedsim.errors import FedsimError, invalid, unknown
from fedsim.models import InputShape
from fedsim.tasks import TASKS
from fedsim.tasks.task import Draws, Normalisation, Occasion

LEAST_SHARE = 0.01
"""Of the image at the step that ``generated`` begins with; with less, errors of predicted noise grow tenfold."""

LEAST_LEVELS = 3
"""Of Heun's method: a start, an end and 0."""


class Stepped(nn.Module):
    """A network of images and steps as one of a single tensor."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, inputs: Tensor) -> Tensor:
        """The answer [B, C, H, W] to noisy images above their step, [B, C + 1, H, W]."""
        answer: Tensor = self.network(inputs[:, :-1], inputs[:, -1, 0, 0].long())
        return answer


@TASKS.register("diffusion")
@dataclass(frozen=True)
class Diffusion:
    """Learn to take noise out of images; judged by the loss at fixed noise, and by samples.

    Noise and step are drawn for each example: of a client, a round and a step of it if they are private; if they are
    shared, of a round and a step alone, by the server's seed, so that the i-th example of every client's batch has the
    same ones. Images are fed in [-1, 1], whatever ``data.normalise`` says. Networks are those of ``fedsim.diffusion``.

    Attributes:
        schedule: a noise schedule's name, with its parameters beside it; linear over 1000 steps by default.
        zero_terminal: whether it is stretched to end in pure noise, which needs v-prediction.
        prediction: ``epsilon`` or ``v``.
        weighted: see ``Objective``.
        error: likewise.
        noise: ``private`` or ``shared``.
        count: how many samples show what the global model draws; 0 for none.
        sampling_steps: of the sampler for each of them; Heun's are levels, the last one 0, of which it asks the
            network 2 S - 3 times.
        sampler: ``ddim``, ``ddpm`` or ``heun``.

    Raises:
        FedsimError: unknown schedule, sampler or parameter, prediction and schedule that exclude each other, more
            sampling steps than the schedule has, or fewer than three for Heun's method.
    """

    schedule: Mapping[str, Any] | None = None
    zero_terminal: bool = False
    prediction: Prediction = "epsilon"
    weighted: bool = True
    error: Error = "squared"
    noise: Literal["private", "shared"] = "private"
    count: int = 16
    sampling_steps: int = 50
    sampler: Integrator = "ddim"

    objective: ClassVar[str] = "denoising"
    metrics: ClassVar[tuple[str, ...]] = ("loss",)
    labelled: ClassVar[bool] = False
    drawn: ClassVar[frozenset[str]] = frozenset({"noise", "steps"})

    def __post_init__(self) -> None:
        if self.count < 0:
            raise invalid("task diffusion: count", self.count, "must be 0 or more", "Correct it")
        steps = len(self.goal.schedule)
        if not 1 <= self.sampling_steps <= steps:
            raise invalid(
                "task diffusion: sampling_steps",
                self.sampling_steps,
                f"the schedule has {steps} steps",
                f"Take 1 to {steps}",
            )
        if self.sampler not in get_args(Integrator):
            raise unknown("task diffusion: sampler", self.sampler, get_args(Integrator))
        if self.sampler == "heun" and self.sampling_steps < LEAST_LEVELS:
            raise invalid(
                "task diffusion: sampling_steps",
                self.sampling_steps,
                "Heun's method goes by levels, of which a start, an end and 0 are three",
                f"Take {LEAST_LEVELS} or more, or another sampler",
            )

    @cached_property
    def goal(self) -> Objective:
        """The loss, by its parts."""
        table = {"name": "linear", "steps": 1000} | dict(self.schedule or {})
        schedule: Schedule = SCHEDULES.create(str(table.pop("name")), **table)
        if self.zero_terminal:
            schedule = zero_terminal(schedule)
        return Objective(schedule, self.prediction, self.weighted, self.error)

    def build(
        self,
        name: str,
        input_shape: InputShape,
        classes: int,  # noqa: ARG002
        parameters: Mapping[str, Any],
        *,
        seed: int,
    ) -> nn.Module:
        return Stepped(build(name, input_shape, seed=seed, **parameters)).eval()

    def check(self, network: nn.Module, name: str, input_shape: InputShape, classes: int) -> None:  # noqa: ARG002
        channels, *sides = input_shape
        try:
            with torch.no_grad():
                answer = network(torch.zeros(2, channels + 1, *sides))
        except (RuntimeError, ValueError, TypeError) as error:
            raise FedsimError(
                f"diffusion network {name!r} cannot take images of shape {list(input_shape)} and their steps: {error}. "
                "Choose another network, or other parameters."
            ) from error
        if tuple(answer.shape) != (2, *input_shape):
            raise FedsimError(
                f"diffusion network {name!r} gives {list(answer.shape)} for 2 images of shape {list(input_shape)}. "
                "It must give their own shape."
            )

    def normalisation(self, mean: tuple[float, ...], std: tuple[float, ...]) -> Normalisation:
        return (0.5,) * len(mean), (0.5,) * len(std)

    def draws(self, occasion: Occasion, shape: tuple[int, ...]) -> Draws:
        """Noise and steps of a batch, on the CPU; those of an example do not depend on how many come after it.

        Args:
            occasion: when it is used.
            shape: of the batch, [B, C, H, W].

        Returns:
            float32 [B, C, H, W] and int64 [B].
        """
        generator = seeding.generator(occasion.seed, *self._path(occasion))
        steps = len(self.goal.schedule)
        drawn = [
            (torch.randn(shape[1:], generator=generator), torch.randint(steps, (), generator=generator))
            for _ in range(shape[0])
        ]
        return Draws(torch.stack([noise for noise, _ in drawn]), torch.stack([t for _, t in drawn]))

    def pose(self, inputs: Tensor, labels: Tensor, occasion: Occasion) -> tuple[Tensor, Tensor]:
        return self.posed(inputs, labels, self.draws(occasion, tuple(inputs.shape)))

    def posed(self, inputs: Tensor, labels: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:  # noqa: ARG002
        if draws.noise is None or draws.steps is None:
            missing = "noise" if draws.noise is None else "steps"
            raise FedsimError(f"task diffusion: the {missing} of the batch are not known. Give them, or guess them.")
        noise, t = draws.noise.to(inputs.device), draws.steps.to(inputs.device)
        x, wanted = self.goal.posed(inputs, noise.to(inputs.dtype), t)
        return _above(x, t), _above(wanted, self.goal.weights(t, inputs))

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return self.each(outputs, targets).mean()

    def each(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return self.goal.errors(outputs, targets[:, :-1]) * targets[:, -1, 0, 0]

    def total(self, metric: str, outputs: Tensor, targets: Tensor) -> Tensor:  # noqa: ARG002  (there is one metric)
        return self.each(outputs, targets).sum()

    @torch.no_grad()
    def samples(
        self, network: nn.Module, input_shape: InputShape, *, seed: int, count: int | None = None
    ) -> Tensor | None:
        """By the sampler, with each estimate kept in [-1, 1]; the noise is of the seed alone."""
        wanted = self.count if count is None else count
        if not wanted:
            return None
        if not isinstance(network, Stepped):
            raise FedsimError("task diffusion: samples need a network that Diffusion.build has made.")
        generator = seeding.generator(seed, "samples")
        start = torch.randn(wanted, *input_shape, generator=generator).to(next(network.parameters()).device)
        found = self._sampled(network.eval().network, start, seeded_noise(seeding.generator(seed, "samples", "noise")))
        return ((found + 1) / 2).clamp(0, 1).cpu()

    def _sampled(self, network: Network, start: Tensor, noise: Noise) -> Tensor:
        """Images in [-1, 1] from standard normal numbers, by the sampler."""
        schedule = self.goal.schedule
        estimate = denoiser(network, schedule, self.prediction, bound=1.0)
        if self.sampler == "heun":
            top = highest(schedule)
            levels = karras(self.sampling_steps, torch.full((1,), top), float(schedule.levels[0]))[:, 0]
            # As noisy as the schedule has it there: images are about as wide as 1
            return heun(at_levels(estimate, schedule), math.sqrt(1 + top**2) * start, levels)
        steps = schedule.spaced(self.sampling_steps).flip(0)
        if self.sampler == "ddim":
            return ddim(estimate, schedule, start, steps)
        return ddpm(estimate, schedule, start, steps, noise)

    def generated(self, answer: Callable[[Tensor], Tensor], latents: Tensor, count: int) -> Tensor:
        last = int((self.goal.schedule.alpha_bar >= LEAST_SHARE).sum()) - 1
        if not 1 <= count <= last + 1:
            raise invalid("sampling_steps", count, f"the schedule has {last + 1} steps to draw by", "Ask for fewer")
        steps = torch.linspace(last, 0, count, dtype=torch.float64).round().long()
        estimate = denoiser(lambda x, t: answer(_above(x, t)), self.goal.schedule, self.prediction)
        return ddim(estimate, self.goal.schedule, latents, steps)

    def _path(self, occasion: Occasion) -> tuple[str | int, ...]:
        """Where the draws of a batch come from."""
        if occasion.client is None or occasion.round is None:
            return "evaluation", "step", occasion.step, "noise"
        shared = ("round", occasion.round, "step", occasion.step, "noise")
        return shared if self.noise == "shared" else ("client", occasion.client, *shared)


def _above(images: Tensor, numbers: Tensor) -> Tensor:
    """Images [B, C, H, W] with a number each, [B], in a plane below them: [B, C + 1, H, W]."""
    plane = numbers.to(images.dtype).view(-1, 1, 1, 1).expand(-1, 1, *images.shape[2:])
    return torch.cat([images, plane], dim=1)
