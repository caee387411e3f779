"""Attacks on gradients of a diffusion loss: ``python -m experiments.reproduce.gidm --out docs/results``.

Fashion-MNIST, one image a gradient, noise and step of the schedule known (set A): ``gidm``, its second search alone,
and the attacks on classifiers on the same loss, against fresh networks and against a trained one.
"""

from __future__ import annotations

import argparse
import functools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from adversary import ATTACKS, Attack
from adversary.attack import Needs, Progress
from adversary.diffusion.steps import with_steps
from experiments.reproduce.gidm_models import TASK, WIDTHS, distilled, network, trained
from experiments.reproduce.gidm_page import write_page
from experiments.reproduce.gidm_picture import write_picture
from experiments.reproduce.victims import Task, arguments, carry_out, run_all
from fedsim.data import DataSet, load
from fedsim.protocol import Knowledge, Observation, Reconstruction, TrainingPlan
from fedsim.tasks import Draws, Occasion

NAME = "gidm"
STARTS, ITERATIONS = 2, 500
"""Of every search of pixels; a second start is made only where the first one does not explain the gradient.

``inverting_gradients``, whose objective does not tell, has one.
"""

FIRST_SEARCH: dict[str, Any] = {
    "latent_draws": 64,
    "latent_iterations": 20,
    "latent_learning_rate": 0.1,
    "sampling_steps": 4,
}
PIXELS: dict[str, Any] = {"optimiser": "lbfgs", "iterations": ITERATIONS, "restarts": STARTS, "tolerance": 1e-9}
ALL_STEPS = 15
"""Those of the schedule that have a hundredth of the image, from which ``Diffusion.generated`` draws."""

STUDENT_STEPS = 4
FIRST = 64
"""The first victim: its test image, and the seed of its weights and noise. Settings were chosen on earlier ones."""

EXPLAINED = 1e-3
"""Objective from which on a gradient counts as explained, so that methods can be compared by the time to it."""


@dataclass(frozen=True)
class NoiseTask(Task):
    """An attack on the gradient of a diffusion loss.

    Attributes:
        t: step of the schedule.
        prior: file of the trained model.
        state: ``fresh`` for weights of the victim's own, ``trained`` for those of the trained model.
        variant: tells apart what has the same name, and so begins at the same latents.
        granted: whether the step is known (set A) or to be read from the gradient (set B).
    """

    t: int = 0
    prior: str = ""
    state: str = "fresh"
    variant: str = ""
    granted: bool = True

    def key(self) -> str:
        """The name under which results are kept."""
        return f"{self.name}{self.variant}-{self.victim}"


def main() -> None:
    """Train the models that are missing, run what is missing, then write the page."""
    options = arguments(__doc__ or "", _configure)
    prior, student = options.models / "prior.safetensors", options.models / f"student-{STUDENT_STEPS}"
    methods = list(tasks_of(options.victims, prior))
    tasks = [*methods, *tasks_of_priors(options.victims, prior, student)]
    if not options.page:
        state = trained(_data(), options.training, prior)
        run_all(methods, options.out, NAME, options.workers, attack_noise)
        distilled(_data(), state, options.distilling, student, count=STUDENT_STEPS)
    records = run_all(tasks, options.out, NAME, options.workers, attack_noise, partial=options.page)
    write_picture(options.out, NAME, tasks)
    write_page(options.out, NAME, records, training=options.training, distilling=options.distilling)


def tasks_of(victims: int, prior: Path) -> Iterator[NoiseTask]:
    """Each method on trained and fresh victims, victim by victim: a run that is cut off has the same ones for each."""
    gidm = PIXELS | FIRST_SEARCH | {"prior": str(prior)}
    for victim, t in enumerate(steps_of(victims)):
        for state in ("trained", "fresh"):
            make = functools.partial(_task, victim=victim, t=t, state=state, prior=prior)
            yield make("gidm", "gidm", gidm)
            yield make("gidm, from features", "gidm", gidm | {"start": "features"})
            yield make("pixels", "gidm", PIXELS | {"prior": "none"})
            yield make("dlg", "dlg", {"iterations": ITERATIONS, "restarts": STARTS})
            yield make("inverting_gradients", "inverting_gradients", {"iterations": ITERATIONS})


def tasks_of_priors(victims: int, prior: Path, student: Path) -> Iterator[NoiseTask]:
    """The first search alone, and both, on trained victims through several priors from the same latents.

    The last ones withhold the step.
    """
    priors: dict[str, dict[str, Any]] = {
        "all steps": {"prior": str(prior), "sampling_steps": ALL_STEPS},
        "student": {"prior": str(student)},
        "four steps": {"prior": str(prior)},
        "random": {"prior": "random"},
    }
    for iterations, what in ((0, "first"), (ITERATIONS, "both")):
        for victim, t in enumerate(steps_of(victims)):
            make = functools.partial(_task, victim=victim, t=t, state="trained", prior=prior)
            for name, given in priors.items():
                if name != "four steps" or what == "first":  # both with four steps is ``gidm`` itself
                    parameters = PIXELS | FIRST_SEARCH | given | {"iterations": iterations, "restarts": 1}
                    yield make("gidm", "gidm", parameters, variant=f"/{what}/{name}")
    for victim, t in enumerate(steps_of(victims)):
        parameters = PIXELS | FIRST_SEARCH | {"prior": str(prior)}
        yield _task(
            "gidm", "gidm", parameters, victim=victim, t=t, state="trained", prior=prior, variant="/B", granted=False
        )


def _task(
    name: str,
    attack: str,
    parameters: dict[str, Any],
    *,
    victim: int,
    t: int,
    state: str,
    prior: Path,
    variant: str = "",
    granted: bool = True,
) -> NoiseTask:
    return NoiseTask(
        f"{state}-{name}",
        attack,
        parameters,
        "unet",
        {"widths": list(WIDTHS)},
        victim,
        (FIRST + victim,),
        normalise=False,
        t=t,
        prior=str(prior),
        state=state,
        variant=variant,
        granted=granted,
    )


def steps_of(victims: int) -> list[int]:
    """Steps of the schedule, spread over all of it."""
    steps: list[int] = torch.linspace(0, len(TASK.goal.schedule) - 1, victims).round().long().tolist()
    return steps


def observe_noise(task: NoiseTask, data: DataSet) -> tuple[Observation, Knowledge, Tensor, Tensor]:
    """The gradient at a step of the schedule, what is granted of it, and the truth: images in [0, 1] and labels."""
    batch = data.test.subset(torch.tensor(task.images))
    widths = task.model_parameters["widths"]
    model = network(data, FIRST + task.victim, widths)
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
        functools.partial(network, data, 0, widths),
        data.input_shape,
        data.classes,
        (0.5,),
        (0.5,),
        task=TASK,
        noise=drawn.noise,
        steps=drawn.steps,
    )
    return observation, knowledge, images, batch.labels


@dataclass(frozen=True)
class Timed:
    """An attack that notes when it first explains the gradient.

    Attributes:
        attack: the one inside.
        marks: CPU seconds at its start and, if it comes to that, when its objective is first below ``EXPLAINED``.
    """

    attack: Attack
    marks: list[float] = field(default_factory=list)

    @property
    def needs(self) -> Needs:
        """Those of the attack."""
        return self.attack.needs

    def reconstruct(
        self,
        observations: Sequence[Observation],
        knowledge: Knowledge,
        *,
        seed: int,
        device: torch.device | str = "cpu",
        progress: Progress | None = None,  # noqa: ARG002
    ) -> Reconstruction:
        """What the attack finds."""
        self.marks.append(time.process_time())

        def note(iterations: int, loss: float) -> None:  # noqa: ARG001
            if len(self.marks) == 1 and loss < EXPLAINED:
                self.marks.append(time.process_time())

        return self.attack.reconstruct(observations, knowledge, seed=seed, device=device, progress=note)


def attack_noise(task: Task) -> tuple[dict[str, Any], Tensor, Tensor]:
    """Run one task, as ``victims.attack`` does; its CPU seconds are those of its process alone."""
    if not isinstance(task, NoiseTask):
        raise TypeError(f"{task.key()} is not a task about noise")
    torch.set_num_threads(1)
    observation, knowledge, truth, labels = observe_noise(task, _data())
    if not task.granted:
        knowledge = replace(knowledge, steps=None)
    attack = Timed(ATTACKS.create(task.attack, **task.parameters))
    began = time.process_time()
    record, truth, found = carry_out(task, attack, observation, knowledge, truth, labels)
    spent = time.process_time() - began
    record |= {
        "t": task.t,
        "state": task.state,
        "variant": task.variant,
        "step_read": None if task.granted else int(with_steps(knowledge, observation).draws().steps),  # type: ignore[arg-type]
        "cpu_seconds": round(spent, 1),
        "cpu_seconds_to_explain": round(attack.marks[1] - attack.marks[0], 1) if len(attack.marks) > 1 else None,
    }
    return record, truth, found


@functools.cache
def _data() -> DataSet:
    return load("fashion_mnist")


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--victims", type=int, default=8, help="of fresh networks, and as many of the trained one")
    parser.add_argument("--training", type=int, default=3_000, help="steps of training of the model")
    parser.add_argument("--distilling", type=int, default=400, help="steps of training of the student")
    parser.add_argument("--models", type=Path, default=Path("runs") / NAME, help="folder of the trained model")
    parser.add_argument("--page", action="store_true", help="run nothing; write the page of what there is")


if __name__ == "__main__":
    main()
