"""Attacks on gradients of a diffusion loss: ``python -m experiments.reproduce.gidm --out docs/results``.

Fashion-MNIST, one image a gradient, noise and step of the schedule known (set A): ``gidm``, its second search alone,
and the attacks on classifiers on the same loss, against fresh networks and against a trained one.
"""

from __future__ import annotations

import argparse
import functools
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from adversary import ATTACKS
from experiments.reproduce.gidm_models import TASK, WIDTHS, network, trained
from experiments.reproduce.gidm_page import write_page
from experiments.reproduce.victims import Task, arguments, carry_out, run_all
from fedsim.data import DataSet, load
from fedsim.protocol import Knowledge, Observation, TrainingPlan
from fedsim.tasks import Draws, Occasion

NAME = "gidm"
STARTS, ITERATIONS, LATENT_ITERATIONS = 2, 400, 30
FIRST = 64
"""The first victim: its test image, and the seed of its weights and noise. Settings were chosen on earlier ones."""


@dataclass(frozen=True)
class NoiseTask(Task):
    """An attack on the gradient of a diffusion loss.

    Attributes:
        t: step of the schedule.
        prior: file of the trained model.
        state: ``fresh`` for weights of the victim's own, ``trained`` for those of the trained model.
    """

    t: int = 0
    prior: str = ""
    state: str = "fresh"


def main() -> None:
    """Train the model if it is missing, run what is missing, then write the page."""
    options = arguments(__doc__ or "", _configure)
    prior = options.models / "prior.safetensors"
    if not options.page:
        trained(_data(), options.training, prior)
    tasks = list(tasks_of(options.victims, prior))
    records = run_all(tasks, options.out, NAME, options.workers, attack_noise, partial=options.page)
    write_page(options.out, NAME, records, training=options.training)


def tasks_of(victims: int, prior: Path) -> Iterator[NoiseTask]:
    """Victim by victim, so that a run that is cut off has the same ones for each method."""
    pixels = {"optimiser": "lbfgs", "restarts": STARTS, "iterations": ITERATIONS}
    latents = {"latent_iterations": LATENT_ITERATIONS, "latent_learning_rate": 0.1}
    methods: dict[str, tuple[str, dict[str, Any]]] = {
        "gidm": ("gidm", pixels | latents | {"prior": str(prior)}),
        "pixels": ("gidm", pixels | {"prior": "none"}),
        "dlg": ("dlg", {"iterations": ITERATIONS, "restarts": STARTS}),
        "inverting_gradients": ("inverting_gradients", {"iterations": ITERATIONS, "restarts": STARTS}),
    }
    steps = torch.linspace(0, len(TASK.goal.schedule) - 1, victims).round().long().tolist()
    for victim, t in enumerate(steps):
        for state in ("fresh", "trained"):
            for name, (attack, given) in methods.items():
                yield NoiseTask(
                    f"{state}-{name}",
                    attack,
                    given,
                    "unet",
                    {"widths": list(WIDTHS)},
                    victim,
                    (FIRST + victim,),
                    normalise=False,
                    t=t,
                    prior=str(prior),
                    state=state,
                )


def observe_noise(task: NoiseTask, data: DataSet) -> tuple[Observation, Knowledge, Tensor, Tensor]:
    """The gradient at a step of the schedule, what is granted of it, and the truth: images in [0, 1] and labels."""
    batch = data.test.subset(torch.tensor(task.images))
    model = network(data, seed=FIRST + task.victim)
    if task.state == "trained":
        model.load_state_dict(load_file(task.prior))
    drawn = TASK.draws(Occasion(FIRST + task.victim, 0, 1), tuple(batch.images.shape))
    drawn = Draws(drawn.noise, torch.full((len(batch),), task.t))
    images = batch.images.float() / 255
    posed, targets = TASK.posed(images * 2 - 1, batch.labels, drawn)
    names, parameters = zip(*model.named_parameters(), strict=True)
    gradient = torch.autograd.grad(TASK.loss(model(posed), targets), parameters)
    observation = Observation(
        round=1,
        client=task.victim,
        sent={name: tensor.detach().clone() for name, tensor in model.state_dict().items()},
        received=dict(zip(names, gradient, strict=True)),
        kind="gradient",
        examples=len(batch),
        plan=TrainingPlan(algorithm="fedsgd", batch_size=None, loss=TASK.objective),
    )
    knowledge = Knowledge(
        functools.partial(network, data, 0),
        data.input_shape,
        data.classes,
        (0.5,),
        (0.5,),
        task=TASK,
        noise=drawn.noise,
        steps=drawn.steps,
    )
    return observation, knowledge, images, batch.labels


def attack_noise(task: Task) -> tuple[dict[str, Any], Tensor, Tensor]:
    """Run one task, as ``victims.attack`` does; its CPU seconds are those of its thread alone."""
    if not isinstance(task, NoiseTask):
        raise TypeError(f"{task.key()} is not a task about noise")
    torch.set_num_threads(1)
    seen = observe_noise(task, _data())
    began = time.process_time()
    record, truth, found = carry_out(task, ATTACKS.create(task.attack, **task.parameters), *seen)
    record |= {"t": task.t, "state": task.state, "cpu_seconds": round(time.process_time() - began, 1)}
    return record, truth, found


@functools.cache
def _data() -> DataSet:
    return load("fashion_mnist")


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--victims", type=int, default=8, help="of fresh networks, and as many of the trained one")
    parser.add_argument("--training", type=int, default=3_000, help="steps of training of the model")
    parser.add_argument("--models", type=Path, default=Path("runs") / NAME, help="folder of the trained model")
    parser.add_argument("--page", action="store_true", help="run nothing; write the page of what there is")


if __name__ == "__main__":
    main()
