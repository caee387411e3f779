"""Attacks on model updates, on CIFAR-10: ``python -m experiments.reproduce.agic --out docs/results``.

AGIC, its rivals and MIDAS over local epochs and learning rates; then over images a client, mini-batches, a trained
network, and one with ReLU. Every client trains as fedsim's do; labels are recovered by the attacks.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

from experiments.reproduce.agic_page import write_page
from experiments.reproduce.updates import UpdateTask, attack_update
from experiments.reproduce.victims import arguments, run_all
from fedsim.protocol import TrainingPlan

NAME = "agic"
ATTACKS: dict[str, dict[str, Any]] = {
    "dlg": {"restarts": 1},
    "inverting_gradients": {},
    "agic": {},
    "sme": {},
    "simulation": {"batch_order": "pooled"},
    "midas": {},
}
SMOOTH = {"activation": "gelu"}
EPOCHS = (1, 2, 4, 8)
LEARNING_RATES = (0.01, 0.1)
IMAGES = 4


def main() -> None:
    """Run what is missing, then write tables and figures."""
    options = arguments(__doc__ or "", _configure)
    chosen = {name: ATTACKS[name] for name in options.attacks.split(",")} if options.attacks else ATTACKS
    tasks = list(_tasks(options, chosen))
    records = run_all(tasks, options.out, NAME, options.workers, attack_update)
    write_page(options.out, NAME, records, victims=options.victims, iterations=options.iterations)


def _tasks(options: argparse.Namespace, attacks: dict[str, dict[str, Any]]) -> Iterator[UpdateTask]:
    def cell(group: str, victims: int, plan: TrainingPlan, **changes: Any) -> Iterator[UpdateTask]:
        images, training = changes.get("images", IMAGES), changes.get("training", 0)
        model = changes.get("model", SMOOTH)
        for victim in range(victims):
            for attack, parameters in attacks.items():
                yield UpdateTask(
                    f"{group}-{attack}-{options.iterations}",
                    attack,
                    {**parameters, "iterations": options.iterations},
                    "cnn",
                    model,
                    victim,
                    tuple(range(images * victim, images * (victim + 1))),
                    normalise=True,
                    plan=plan,
                    training=training,
                )

    def plan(epochs: int, rate: float, batch: int | None = None) -> TrainingPlan:
        return TrainingPlan(batch_size=batch, local_epochs=epochs, learning_rate=rate, mode="eval")

    # The most wanted first, so that a run broken off says most.
    for epochs in sorted(EPOCHS, reverse=True):
        victims = options.victims if epochs == max(EPOCHS) else min(options.victims, options.some)
        for rate in LEARNING_RATES:
            if options.part != "sweeps":
                yield from cell(f"epochs{epochs}-rate{rate}", victims, plan(epochs, rate))
    if options.part == "main":
        return
    yield from cell("trained", options.few, plan(8, 0.01), training=300)
    for images in (8, 16):
        yield from cell(f"images{images}", options.few, plan(4, 0.03, batch=4), images=images)
    yield from cell("images4", options.few, plan(4, 0.03, batch=4))
    yield from cell("relu", options.few, plan(8, 0.01), model={"activation": "relu"})


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--victims", type=int, default=16, help="victims in the main comparison, at 8 local epochs")
    parser.add_argument("--some", type=int, default=8, help="victims at fewer local epochs")
    parser.add_argument("--part", choices=["all", "main", "sweeps"], default="all", help="of the tasks")
    parser.add_argument("--few", type=int, default=4, help="victims in the sweeps")
    parser.add_argument("--iterations", type=int, default=600, help="of each attack")
    parser.add_argument("--attacks", default="", help="some of them, by commas")


if __name__ == "__main__":
    main()
