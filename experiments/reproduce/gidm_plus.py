"""Gradients of a diffusion loss with nothing known: ``python -m experiments.reproduce.gidm_plus --out docs/results``.

Fashion-MNIST, one image a gradient, noise and step unknown (set D), fresh networks and trained ones, steps spread over
the whole schedule; beside it the ways to find the step.
"""

from __future__ import annotations

import argparse
import functools
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from adversary import ATTACKS
from adversary.diffusion.observed import observed
from adversary.diffusion.step_guesses import guess
from adversary.diffusion.steps import with_steps
from experiments.reproduce.gidm import FIRST, NoiseTask, observe_noise, steps_of
from experiments.reproduce.gidm_models import WIDTHS, trained
from experiments.reproduce.gidm_plus_page import write_page
from experiments.reproduce.halved import clothes
from experiments.reproduce.victims import Task, arguments, carry_out, run_all
from fedsim import seeding
from fedsim.data import DataSet, Images, load
from fedsim.data.images import statistics

NAME = "gidm_plus"
WIDE, NARROW, TINY = (16, 64), (16, 32), (8, 16)
"""Of networks for 14x14: of the first the gradient gives features away, of the second not; and for 8x8."""

SEARCH = 500
"""Iterations from one start, of searches from noise and of attacks that guess the noise."""

POLISH = 100
TRIED = ("readout", "enumerate", "soft", "gumbel")


@dataclass(frozen=True)
class Unaided(NoiseTask):
    """An attack that is granted nothing.

    Attributes:
        side: of the images.
        guessed: whether a noise drawn at random is taken for the victim's, for attacks that need to know it.
        stepping: the way to find the step, where that is what is tried.
    """

    side: int = 28
    guessed: bool = False
    stepping: str = ""


def main() -> None:
    """Train the models that are missing, run what is missing, then write the page."""
    options = arguments(__doc__ or "", _configure)
    tasks = list(tasks_of(options.victims, options.models))
    if not options.page:
        for side, widths, steps in ((28, WIDTHS, 3_000), (14, WIDE, 1_500), (14, NARROW, 1_500)):
            trained(data_of(side), steps, _prior(options.models, side, widths), widths)
    records = run_all(tasks, options.out, NAME, options.workers, attack_unaided, partial=options.page)
    write_page(options.out, NAME, records)


def tasks_of(victims: int, models: Path) -> Iterator[Unaided]:
    """Of each size first what is new, then what it is compared with; the ways to find the step come last."""
    closed = {"iterations": 0}
    once = {"iterations": SEARCH, "restarts": 1}
    guessing = {"guessed": True}
    for widths, side in ((WIDTHS, 28), (WIDE, 14)):
        make = functools.partial(_each, victims, models, widths, side)
        yield from make("gidm_plus", "gidm_plus", {"iterations": POLISH, "restarts": 1})
        yield from make("closed form", "gidm_plus", closed)
    yield from _each(victims, models, NARROW, 14, "gidm_plus", "gidm_plus", {})
    for attack in ("dlg", "inverting_gradients"):
        yield from _each(victims, models, WIDTHS, 28, f"{attack}, noise guessed", attack, once, **guessing)
    yield from _each(victims, models, WIDTHS, 28, "search from noise", "gidm_plus", {"start": "noise"} | once)
    for how in TRIED:
        for victim, t in enumerate(steps_of(victims)):
            yield _task(victim, t, "fresh", models, TINY, 8, how, "gidm_plus", {}, stepping=how)


def _each(
    victims: int,
    models: Path,
    widths: tuple[int, ...],
    side: int,
    name: str,
    attack: str,
    parameters: dict[str, Any],
    **how: Any,
) -> Iterator[Unaided]:
    for victim, t in enumerate(steps_of(victims)):
        for state in ("fresh", "trained"):
            yield _task(victim, t, state, models, widths, side, name, attack, parameters, **how)


def _task(
    victim: int,
    t: int,
    state: str,
    models: Path,
    widths: tuple[int, ...],
    side: int,
    name: str,
    attack: str,
    parameters: dict[str, Any],
    **how: Any,
) -> Unaided:
    return Unaided(
        f"{side}x{side}-{'-'.join(map(str, widths))}-{state}-{name}",
        attack,
        parameters,
        "unet",
        {"widths": list(widths)},
        victim,
        (FIRST + victim,),
        normalise=False,
        t=t,
        prior=str(_prior(models, side, widths)),
        state=state,
        variant="",
        granted=False,
        side=side,
        **how,
    )


def _prior(models: Path, side: int, widths: tuple[int, ...]) -> Path:
    return models / ("prior.safetensors" if side == 28 else f"prior-{side}-{'-'.join(map(str, widths))}.safetensors")


def attack_unaided(task: Task) -> tuple[dict[str, Any], Tensor, Tensor]:
    """Run one task, as ``victims.attack`` does; its CPU seconds are those of its process alone."""
    if not isinstance(task, Unaided):
        raise TypeError(f"{task.key()} is not a task of this study")
    torch.set_num_threads(1)
    observation, knowledge, truth, labels = observe_noise(task, data_of(task.side))
    knowledge = replace(knowledge, steps=None, noise=None)
    began = time.process_time()
    if task.stepping:
        seen = observed(observation, knowledge, dtype=torch.float64)
        found = guess(task.stepping, seen, seed=0)  # type: ignore[arg-type]
        record = {"key": task.key(), "name": task.name, "victim": task.victim, "images": list(task.images)}
        record |= {"step_found": found, "psnr": 0.0, "mse": 0.0, "label_accuracy": 0.0, "iterations": 0, "seconds": 0.0}
        return record | _beside(task, began) | {"stopped_by": "guess"}, truth, truth
    if task.guessed:
        draws = seeding.generator(task.victim, "gidm_plus", "guessed noise")
        knowledge = replace(knowledge, noise=torch.randn(truth.shape, generator=draws))
        knowledge = with_steps(knowledge, observation)
    record, truth, images = carry_out(
        task, ATTACKS.create(task.attack, **task.parameters), observation, knowledge, truth, labels
    )
    return record | _beside(task, began), truth, images


def _beside(task: Unaided, began: float) -> dict[str, Any]:
    return {
        "t": task.t,
        "state": task.state,
        "side": task.side,
        "widths": task.model_parameters["widths"],
        "stepping": task.stepping,
        "cpu_seconds": round(time.process_time() - began, 1),
    }


@functools.cache
def data_of(side: int) -> DataSet:
    """Fashion-MNIST at 28x28; a slice of it at 14x14 or 8x8, where each pixel is a mean."""
    if side == 28:
        return load("fashion_mnist")
    if side == 14:
        return clothes()
    whole = load("fashion_mnist_small")
    train, test = (
        Images(interpolate(s.images.float(), (side, side), mode="area").round().byte(), s.labels, s.classes)
        for s in (whole.train, whole.test)
    )
    return DataSet(f"fashion_mnist_small at {side}x{side}", train, test, *statistics(train.images))


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--victims", type=int, default=8, help="of fresh networks, and as many of trained ones")
    parser.add_argument("--models", type=Path, default=Path("runs/gidm"), help="folder of the trained models")
    parser.add_argument("--page", action="store_true", help="run nothing; write the page of what there is")


if __name__ == "__main__":
    main()
