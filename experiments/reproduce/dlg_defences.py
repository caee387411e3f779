"""DLG's grid of defences, on CIFAR-10: ``python -m experiments.reproduce.dlg_defences --out docs/results``.

Noise, pruning and low precision on the gradient of one image, against DLG and Inverting Gradients, each as it is and
told of the defence. For DLG the victims are those of ``dlg_single`` that it recovers from its first start without a
defence; for Inverting Gradients a `cnn` with GELU and normalised images. Every attack of a victim starts from the same
noise, whatever the defence.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from flwr.app import RecordDict
from torch import Tensor

from adversary import ATTACKS
from adversary.adaptive import Adaptive
from adversary.attack import Progress
from adversary.defended import view
from adversary.inversion import Inversion
from clients.defences import DEFENCES, Memory, Site, UpdateDefence
from experiments.reproduce.dlg_defences_page import write_page
from experiments.reproduce.victims import Task, arguments, carry_out, data_set, observe, run_all
from experiments.scoring import score
from fedsim.errors import invalid
from fedsim.protocol import DeclaredDefence, Knowledge, Observation, Reconstruction

NAME = "dlg_defences"
DEVIATIONS = (1e-4, 1e-3, 1e-2, 0.1**1.5, 1e-1, 0.1**0.5)
"""Standard deviations. The grid is read both ways: 1e-4 to 1e-1 as deviations, and as variances."""
SHARES = (0.01, 0.1, 0.2, 0.3, 0.5, 0.7)
GRID: tuple[tuple[str, dict[str, Any]], ...] = (
    ("none", {}),
    *(("pruning", {"share": share}) for share in SHARES),
    *((name, {"standard_deviation": s}) for name in ("gaussian_noise", "laplacian_noise") for s in DEVIATIONS),
    *(("half_precision", {"format": name}) for name in ("float16", "bfloat16")),
    ("int8", {}),
)
NETWORKS: dict[str, tuple[str, dict[str, Any], bool]] = {
    "dlg": ("lenet", {}, False),
    "inverting_gradients": ("cnn", {"activation": "gelu"}, True),
}
"""Of each attack's victims: the model, its parameters, and whether images are normalised."""

DLG_VICTIMS = (13, 15, 14)
"""The test images, of the first twenty, that ``dlg_single`` recovers within 4,000 iterations, from its first start: a
search that fails without a defence would say nothing about one."""


@dataclass(frozen=True)
class DefendedTask(Task):
    """An attack, blind and adaptive, on the gradient of a client that defends itself.

    Attributes:
        defence: a registered name, or ``none``.
        strength: its parameters.
    """

    defence: str = "none"
    strength: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Remembering(Inversion):
    """An inversion that keeps what it found, as does each variant made of it.

    ``adaptive`` runs the blind attack first and then the informed one; to have all three costs no more than it.

    Attributes:
        found: in the order of the runs.
    """

    found: list[Reconstruction] = field(default_factory=list)

    @classmethod
    def of(cls, attack: Inversion) -> Remembering:
        """The same attack."""
        return cls(**{part.name: getattr(attack, part.name) for part in fields(attack)})

    def reconstruct(
        self,
        observations: Sequence[Observation],
        knowledge: Knowledge,
        *,
        seed: int,
        device: torch.device | str = "cpu",
        progress: Progress | None = None,
    ) -> Reconstruction:
        found = super().reconstruct(observations, knowledge, seed=seed, device=device, progress=progress)
        self.found.append(found)
        return found


def main() -> None:
    """Run what is missing, then write table and figure."""
    options = arguments(__doc__ or "", _configure)
    records = run_all(list(tasks(options)), options.out, NAME, options.workers, attack_defended)
    write_page(options.out, NAME, records)


def tasks(options: argparse.Namespace) -> Iterator[DefendedTask]:
    """Victim by victim, so that a run broken off leaves whole ones."""
    settings: dict[str, tuple[Sequence[int], dict[str, Any]]] = {
        "inverting_gradients": (range(options.victims), {"iterations": options.iterations}),
        "dlg": (options.dlg_victims, {"iterations": options.dlg_iterations, "restarts": options.dlg_restarts}),
    }
    for attack, (victims, parameters) in settings.items():
        model, network, normalise = NETWORKS[attack]
        budget = "x".join(str(value) for value in parameters.values())
        for victim in victims:
            for defence, strength in GRID:
                values = "".join(f"-{v:.3g}" if isinstance(v, float) else f"-{v}" for v in strength.values())
                yield DefendedTask(
                    f"{attack}-{defence}{values}-{budget}",
                    attack,
                    parameters,
                    model,
                    network,
                    victim,
                    (victim,),
                    normalise,
                    defence=defence,
                    strength=strength,
                )


def attack_defended(task: Task) -> tuple[dict[str, Any], Tensor, Tensor]:
    """Run one task, as ``victims.attack`` does; the scores are the adaptive attack's, the blind one's beside them.

    Of the pictures the first is what the blind attack found, the second what the adaptive one kept.
    """
    if not isinstance(task, DefendedTask):
        raise TypeError(f"{task.key()} is not a task about a defence")
    torch.set_num_threads(1)
    observation, knowledge, truth, labels = observe(task, data_set(task.normalise))
    observation, knowledge = defended(observation, knowledge, task.defence, task.strength)
    attack = ATTACKS.create(task.attack, **task.parameters)
    if not isinstance(attack, Inversion):
        raise invalid("attack", task.attack, "cannot be told of defences", "Use one that is an inversion")
    remembering = Remembering.of(attack)
    # The name of a task is part of the seed: without the defence in it, all starts of a victim are the same.
    record, image, kept = carry_out(
        replace(task, name=task.attack), Adaptive(remembering), observation, knowledge, truth, labels
    )
    blind, *informed = remembering.found
    scores = {
        name: score(found.images, found.labels, truth, labels, lpips=False)
        for name, found in (("blind", blind), *(("informed", found) for found in informed))
    }
    seen = view(observation, knowledge.model(), knowledge.defences or ())
    record |= {
        "key": task.key(),
        "name": task.name,
        "defence": task.defence,
        "strength": task.strength,
        **{f"{name}_{what}": getattr(of, what) for name, of in scores.items() for what in ("psnr", "label_accuracy")},
        "kept": "informed" if informed and torch.equal(kept, informed[0].images) else "blind",
        "share_of_noise": seen.share_of_noise,
    }
    return record, image.repeat(2, 1, 1, 1), torch.cat([blind.images, kept])


def defended(
    observation: Observation, knowledge: Knowledge, defence: str, strength: dict[str, Any]
) -> tuple[Observation, Knowledge]:
    """The gradient as the defence lets it out, and an adversary that is told of the defence.

    Raises:
        FedsimError: the defence is not one of the update.
    """
    if defence == "none":
        return observation, replace(knowledge, defences=())
    made = DEFENCES.create(defence, **strength)
    if not isinstance(made, UpdateDefence):
        raise invalid("defence", defence, "works inside training, of which there is none", "Use one of the update")
    site = Site(0, observation.client, observation.round, 0, "gradient", Memory(RecordDict(), "defence-0"))
    declared = DeclaredDefence(defence, DEFENCES.parameters(defence) | strength)
    return (
        replace(observation, received=made.defend(dict(observation.received), site)),
        replace(knowledge, defences=(declared,)),
    )


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--victims", type=int, default=16, help="of Inverting Gradients")
    parser.add_argument("--iterations", type=int, default=300, help="of Inverting Gradients")
    parser.add_argument("--dlg-victims", type=int, nargs="*", default=DLG_VICTIMS, help="test images for DLG")
    parser.add_argument("--dlg-iterations", type=int, default=4_000, help="of DLG, from each start")
    parser.add_argument("--dlg-restarts", type=int, default=1, help="starts of DLG, at most")


if __name__ == "__main__":
    main()
