"""Utility against leakage, a run for each defence: ``python -m experiments.reproduce.defences --out docs/results``.

CIFAR-10, 400 clients of ten images, twenty of them a round, one gradient each, and Adam at the server. Each setting is
one run of fedsim with an adaptive adversary in the first round; a run of that round alone, which is the same bit for
bit, has the adversary that knows of no defence, with the same starting points.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments import Experiment, Result, run
from experiments.reproduce.defences_page import write_page
from experiments.reproduce.victims import CONSOLE, arguments
from experiments.run_folder import RunFolder, append, read

NAME = "defences"
ATTACK = "inverting_gradients"
LABEL = "curious"
"""What both attacks are called, each in its own run: the label is part of the seed of the starting points."""

Setting = tuple[str, dict[str, Any], dict[str, Any]]
"""A defence, its parameters, and what changes in ``[training]``."""

NATURAL = "natural"
FEDAVG: dict[str, Any] = {
    "algorithm": "fedavg",
    "learning_rate": 0.05,
    "strategy": {"name": "fedadam", "eta": 0.002, "beta_2": 0.999, "tau": 1e-8},
}
"""Local steps, whose mean update a server with the same Adam takes for a gradient."""
SETTINGS: tuple[Setting, ...] = (
    ("none", {}, {}),
    *(("gaussian_noise", {"standard_deviation": s}, {}) for s in (1e-3, 1e-2, 1e-1)),
    *(("laplacian_noise", {"standard_deviation": s}, {}) for s in (1e-3, 1e-2, 1e-1)),
    *(("clipping", {"norm": norm}, {}) for norm in (1.0, 0.1)),
    *(("dp_sgd", {"norm": 1.0, "noise_multiplier": z}, {}) for z in (0.01, 0.1, 1.0)),
    *(("pruning", {"share": share}, {}) for share in (0.7, 0.9, 0.99)),
    *(("sparsification", {"share": share}, {}) for share in (0.7, 0.9)),
    *(("half_precision", {"format": name}, {}) for name in ("float16", "bfloat16")),
    *(("int8", {"bits": bits}, {}) for bits in (8, 4)),
    *(("soteria", {"share": share}, {}) for share in (0.4, 0.8)),
    *(("withholding", {"layers": layers}, {}) for layers in (["0"], ["4"], ["7"])),
    *((NATURAL, {}, {"batch_size": size}) for size in (4, "full")),
    *((NATURAL, {}, {"batch_size": 5, "local_epochs": epochs, **FEDAVG}) for epochs in (1, 4)),
)


def main() -> None:
    """Run what is missing; table and figure are written anew after each setting, of those that are done."""
    options = arguments(__doc__ or "", _configure)
    options.out.mkdir(parents=True, exist_ok=True)
    lines = options.out / f"{NAME}.jsonl"
    records = {record["key"]: record for record in read(lines)}
    wanted = {key(setting, options): setting for setting in SETTINGS}
    for name, setting in wanted.items():
        if name not in records:
            records[name] = {"key": name, **measure(setting, name, options)}
            append(lines, [records[name]])
            CONSOLE.print(json.dumps(records[name]))
        write_page(options.out, NAME, [records[done] for done in wanted if done in records], len(wanted))


def key(setting: Setting, options: argparse.Namespace) -> str:
    """The name under which results are kept; it tells all that results depend on."""
    defence, strength, training = setting
    changes = {name: value for name, value in training.items() if name != "strategy"}
    values = [str(value) for value in (strength | changes).values()]
    return "-".join([defence, *values, *(str(n) for n in (options.rounds, options.victims, options.iterations))])


def measure(setting: Setting, name: str, options: argparse.Namespace) -> dict[str, Any]:
    """One setting: the run with the adaptive adversary, and its first round with the blind one."""
    defence, strength, training = setting
    whole = _run(tables(setting, options), options.runs / name)
    blind = _run(tables(setting, options, blind=True), options.runs / f"{name}-blind")
    return {
        "defence": defence,
        "strength": strength,
        "training": training,
        "rounds": options.rounds,
        "iterations": options.iterations,
        "accuracy": whole.metrics[-1]["test_accuracy"],
        "tested": options.test_size,
        "epsilon": _epsilon(RunFolder.open(whole.folder)),
        "blind": [_scores(record) for record in blind.attacks],
        "adaptive": [_scores(record) for record in whole.attacks],
    }


def tables(setting: Setting, options: argparse.Namespace, *, blind: bool = False) -> dict[str, Any]:
    """The configuration of a setting; with the blind adversary, of its first round alone."""
    defence, strength, training = setting
    attack: dict[str, Any] = {"name": ATTACK} if blind else {"name": "adaptive", "attack": ATTACK}
    if not blind:
        attack["grants"] = ["defences"]
    rounds = 1 if blind else options.rounds
    return {
        "name": NAME,
        "data": {
            "name": options.data,
            "clients": options.clients,
            "train_size": 10 * options.clients,
            "test_size": options.test_size,
        },
        "model": {"name": "cnn", "activation": "gelu"},
        "training": {
            "algorithm": "fedsgd",
            "batch_size": 1,
            "learning_rate": 0.002,
            "strategy": {"name": "fedsgd", "optimiser": "adam"},
            "rounds": rounds,
            "evaluate_every": rounds,
            "mode": "eval",
            **training,
        },
        "selection": {"clients_per_round": min(20, options.clients)},
        "defences": [] if defence in ("none", NATURAL) else [{"name": defence, **strength}],
        "attacks": [
            {
                **attack,
                "label": LABEL,
                "rounds": ["first"],
                "clients": options.victims,
                "iterations": options.iterations,
                "lpips": False,
            }
        ],
    }


def _run(configuration: dict[str, Any], folder: Path) -> Result:
    """A run, or the rest of one that was cut off; of one that had ended, what it wrote."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    return run(Experiment.of(configuration), folder, resume=True)


def _scores(record: Mapping[str, Any]) -> dict[str, Any]:
    kept = ("client", "psnr", "ssim", "label_accuracy", "baseline_psnr", "examples", "seconds")
    return {name: record[name] for name in kept}


def _epsilon(folder: RunFolder) -> float | None:
    """The most that a client has spent, of those with an accountant."""
    told = [(record.get("reported") or {}).get("dp-epsilon") for record in folder.read_clients()]
    spent = [float(epsilon) for epsilon in told if epsilon is not None]
    return max(spent) if spent else None


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--victims", type=int, default=8, help="clients attacked, of those in the first round")
    parser.add_argument("--rounds", type=int, default=200, help="of training")
    parser.add_argument("--iterations", type=int, default=300, help="of the attacks")
    parser.add_argument("--data", default="cifar10", help="the data set")
    parser.add_argument("--clients", type=int, default=400, help="clients, of ten images each")
    parser.add_argument("--test-size", type=int, default=2_000, help="test images that accuracy is measured on")
    parser.add_argument("--runs", type=Path, default=Path("runs/defences"), help="folder of the run folders")


if __name__ == "__main__":
    main()
