"""Diffusion: the noise in an image, or its velocity, at a random step of a schedule.

The network is fed one tensor and its answer is compared with one, as defences that take batches apart need it: the
step is a plane below the noisy image, with the class of the example below that if the network is told it, and the
weight of the example's loss a plane below what should be answered.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor, nn

from fedsim import seeding
from fedsim.diffusion import (
    NETWORKS,
    SCHEDULES,
    Denoiser,
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
from fedsim.tasks.stepped import Stepped, above
from fedsim.tasks.task import Draws, Normalisation, Occasion

LEAST_SHARE = 0.01
"""Of the image at the step that ``generated`` begins with; with less, errors of predicted noise grow tenfold."""

LEAST_LEVELS = 3
"""Of Heun's method: a start, an end and 0."""


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
        conditional: whether networks are told the class of each image, of as many as the data have; samples are then of
            the classes in turn.
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
    conditional: bool = False
    sampler: Integrator = "ddim"

    objective: ClassVar[str] = "denoising"
    metrics: ClassVar[tuple[str, ...]] = ("loss",)
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

    @property
    def labelled(self) -> bool:
        return self.conditional

    @cached_property
    def goal(self) -> Objective:
        """The loss, by its parts."""
        table = {"name": "linear", "steps": 1000} | dict(self.schedule or {})
        schedule: Schedule = SCHEDULES.create(str(table.pop("name")), **table)
        if self.zero_terminal:
            schedule = zero_terminal(schedule)
        return Objective(schedule, self.prediction, self.weighted, self.error)

    def build(
        self, name: str, input_shape: InputShape, classes: int, parameters: Mapping[str, Any], *, seed: int
    ) -> nn.Module:
        known = classes if self.conditional else 0
        given = self._with_classes(name, classes, parameters)
        return Stepped(build(name, input_shape, seed=seed, **given), known).eval()

    def _with_classes(self, name: str, classes: int, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """The network's parameters, with the number of classes where it is told them."""
        given = dict(parameters)
        if not self.conditional:
            if given.get("classes"):
                problem = "the network would be told labels, and the task tells none"
                raise invalid(
                    "model.classes", given["classes"], problem, "Leave it out, and set task.conditional = true"
                )
            return given
        accepted = inspect.signature(NETWORKS.factory(name)).parameters.values()
        if not any(p.name == "classes" or p.kind is p.VAR_KEYWORD for p in accepted):
            raise invalid(
                "task.conditional",
                True,
                f"the diffusion network {name!r} has no parameter classes, and so cannot be told labels",
                'Choose "unet", or set it to false',
            )
        if given.setdefault("classes", classes) != classes:
            raise invalid("model.classes", given["classes"], f"the data have {classes}", "Leave it out")
        return given

    def check(self, network: nn.Module, name: str, input_shape: InputShape, classes: int) -> None:
        images = torch.zeros(2, *input_shape)
        told = [torch.zeros(2), *([torch.tensor([0, classes - 1])] if self.conditional else [])]
        try:
            with torch.no_grad():
                answer = network(above(images, *told))
        except (RuntimeError, ValueError, TypeError) as error:
            raise FedsimError(
                f"diffusion network {name!r} cannot take images of shape {list(input_shape)} and their steps"
                f"{' and classes' if self.conditional else ''}: {error}. Choose another network, or other parameters."
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

    def posed(self, inputs: Tensor, labels: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        if draws.noise is None or draws.steps is None:
            missing = "noise" if draws.noise is None else "steps"
            raise FedsimError(f"task diffusion: the {missing} of the batch are not known. Give them, or guess them.")
        noise, t = draws.noise.to(inputs.device), draws.steps.to(inputs.device)
        x, wanted = self.goal.posed(inputs, noise.to(inputs.dtype), t)
        return above(x, t, *self._told(labels, x)), above(wanted, self.goal.weights(t, inputs))

    def _told(self, labels: Tensor | None, images: Tensor) -> list[Tensor]:
        """The labels of images, if the network is told any; on their device."""
        if not self.conditional:
            return []
        if labels is None or labels.is_floating_point() or labels.shape != (len(images),) or bool((labels < 0).any()):
            shown = None if labels is None else labels.tolist()
            problem = f"a conditional network is told one class for each of {len(images)} images, from 0"
            raise invalid("task diffusion: labels", shown, problem, "Give them, or train with conditional = false")
        return [labels.to(images.device)]

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
        if not isinstance(network, Stepped) or bool(network.classes) != self.conditional:
            raise FedsimError("task diffusion: samples need a network that Diffusion.build has made for this task.")
        generator = seeding.generator(seed, "samples")
        start = torch.randn(wanted, *input_shape, generator=generator).to(next(network.parameters()).device)
        labels = torch.arange(wanted) % network.classes if self.conditional else None
        estimate = self._denoiser(network.eval(), labels, bound=1.0)
        found = self._sampled(estimate, start, seeded_noise(seeding.generator(seed, "samples", "noise")))
        return ((found + 1) / 2).clamp(0, 1).cpu()

    def _sampled(self, estimate: Denoiser, start: Tensor, noise: Noise) -> Tensor:
        """Images in [-1, 1] from standard normal numbers, by the sampler."""
        schedule = self.goal.schedule
        if self.sampler == "heun":
            top = highest(schedule)
            levels = karras(self.sampling_steps, torch.full((1,), top), float(schedule.levels[0]))[:, 0]
            # As noisy as the schedule has it there: images are about as wide as 1
            return heun(at_levels(estimate, schedule), math.sqrt(1 + top**2) * start, levels)
        steps = schedule.spaced(self.sampling_steps).flip(0)
        if self.sampler == "ddim":
            return ddim(estimate, schedule, start, steps)
        return ddpm(estimate, schedule, start, steps, noise)

    def generated(
        self, answer: Callable[[Tensor], Tensor], latents: Tensor, count: int, labels: Tensor | None = None
    ) -> Tensor:
        last = int((self.goal.schedule.alpha_bar >= LEAST_SHARE).sum()) - 1
        if not 1 <= count <= last + 1:
            raise invalid("sampling_steps", count, f"the schedule has {last + 1} steps to draw by", "Ask for fewer")
        steps = torch.linspace(last, 0, count, dtype=torch.float64).round().long()
        return ddim(self._denoiser(answer, labels), self.goal.schedule, latents, steps)

    def _denoiser(
        self, answer: Callable[[Tensor], Tensor], labels: Tensor | None, *, bound: float | None = None
    ) -> Denoiser:
        """The images of these classes, if any, that a network of one tensor sees in noisy ones."""

        def of_two(x: Tensor, t: Tensor) -> Tensor:
            return answer(above(x, t, *self._told(labels, x)))

        return denoiser(of_two, self.goal.schedule, self.prediction, bound=bound)

    def _path(self, occasion: Occasion) -> tuple[str | int, ...]:
        """Where the draws of a batch come from."""
        if occasion.client is None or occasion.round is None:
            return "evaluation", "step", occasion.step, "noise"
        shared = ("round", occasion.round, "step", occasion.step, "noise")
        return shared if self.noise == "shared" else ("client", occasion.client, *shared)
