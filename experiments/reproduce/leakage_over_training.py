"""Leakage over a training, on CIFAR-10: ``python -m experiments.reproduce.leakage_over_training --out docs/results``.

One federation by FedSGD and one by FedAvg, each attacked inside the protocol in chosen rounds. The victims are the
same clients with the same images in every round: half of them have one image, half have four; the others train the
model. A run that is cut off goes on where it stopped, as its folder under ``--runs`` is an ordinary run.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any, get_args

from experiments import Experiment, run
from experiments.reproduce.leakage_page import write_page
from experiments.run_folder import read
from fedsim.protocol import Algorithm

NAME = "leakage-over-training"
ATTACKS: dict[Algorithm, tuple[str, ...]] = {
    "fedsgd": ("inverting_gradients", "agic"),
    "fedavg": ("inverting_gradients", "agic", "sme", "midas"),
}
IMAGES = (1, 4)
ATTACKED = (1, 2, 5, 10, 20, 50, 100, 200)
OTHERS, SHARD = 20, 100
LOCAL: dict[Algorithm, dict[str, Any]] = {
    "fedsgd": {"learning_rate": 0.003, "strategy": {"name": "fedsgd", "optimiser": "adam"}},
    "fedavg": {
        "learning_rate": 0.03,
        "local_epochs": 4,
        # FedAdam's default tau is above most entries of these updates and would nearly stop the training.
        "strategy": {"name": "fedadam", "eta": 0.003, "tau": 1e-8},
    },
}


def main() -> None:
    """Run what is missing, then write records, tables and the figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("docs/results"), help="folder of the results")
    parser.add_argument("--runs", type=Path, default=Path("runs") / NAME, help="folder of the federations' runs")
    parser.add_argument("--algorithms", nargs="+", default=list(ATTACKS), choices=get_args(Algorithm))
    parser.add_argument("--victims", type=int, default=5, help="victims of each number of images")
    parser.add_argument("--rounds", type=int, default=50, help="of each federation")
    parser.add_argument("--iterations", type=int, default=300, help="of each attack")
    parser.add_argument("--workers", type=int, default=0, help="processes that attack while training goes on")
    options = parser.parse_args()
    found = []
    for algorithm in options.algorithms:
        tables = configuration(algorithm, options.victims, options.rounds, options.iterations)
        tables["engine"] = {"attack_workers": options.workers}
        found += attacked(tables, options.runs / algorithm)
    options.out.mkdir(parents=True, exist_ok=True)
    lines = options.out / f"{NAME}.jsonl"
    records = found + [r for r in read(lines) if r["algorithm"] not in options.algorithms]
    records.sort(key=lambda r: (list(ATTACKS).index(r["algorithm"]), r["examples"], r["round"], r["client"]))
    lines.write_text("".join(json.dumps(record) + "\n" for record in records))
    write_page(options.out, NAME, records)


def configuration(algorithm: Algorithm, victims: int, rounds: int, iterations: int) -> dict[str, Any]:
    """The tables of one federation: the victims come first, then those who train.

    Args:
        algorithm: ``fedsgd`` or ``fedavg``.
        victims: of each number of images.
        rounds: of the training; the last is attacked too.
        iterations: of each attack.
    """
    sizes = [images for images in IMAGES for _ in range(victims)]
    whom: dict[str, Any] = {
        "clients": list(range(len(sizes))),
        "rounds": sorted({*(round for round in ATTACKED if round < rounds), rounds}),
        "iterations": iterations,
        "lpips": False,
    }
    return {
        "name": f"{NAME}-{algorithm}",
        "data": {
            "name": "cifar10",
            "clients": len(sizes) + OTHERS,
            "test_size": 2_000,
            "partition": {"name": "sizes", "sizes": sizes + [SHARD] * OTHERS},
        },
        "model": {"name": "cnn", "activation": "gelu"},
        "training": {"algorithm": algorithm, "rounds": rounds, "batch_size": "full", **LOCAL[algorithm]},
        "attacks": [{"name": name, **whom} for name in ATTACKS[algorithm]],
    }


def attacked(tables: dict[str, Any], folder: Path) -> list[dict[str, Any]]:
    """Run a federation, or what is missing of it: a record a reconstruction, with what the model attacked had learned.

    Raises:
        FedsimError: the folder holds a run of another configuration.
    """
    experiment = Experiment.of(tables)
    result = run(experiment, folder, quiet=False, resume=True)
    # The server attacks with the model that it sent, which is that of the round before.
    accuracy: dict[int, float] = {metric["round"] + 1: metric["test_accuracy"] for metric in result.metrics}
    asked = tables["attacks"][0]["iterations"]
    return [
        {"algorithm": experiment.config.training.algorithm, "test_accuracy": accuracy[record["round"]], "asked": asked}
        | {key: value for key, value in record.items() if key != "picture"}
        for record in result.attacks
    ]


if __name__ == "__main__":
    main()
