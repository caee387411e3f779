"""Opening a run folder: a new one, or that of a run which was cut off."""

from __future__ import annotations

import platform
import tomllib
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

import fedsim
from experiments import checkpoint, config
from experiments.checkpoint import Checkpoint
from experiments.experiment import Experiment
from experiments.run_folder import RunFolder
from experiments.tables import Config
from fedsim.errors import FedsimError

MOST_CLIENTS = 400
"""Clients whose label counts are written down."""


def opened(experiment: Experiment, out: Path | str, *, resume: bool) -> tuple[RunFolder, Checkpoint | None]:
    """The run folder, ready to be written on, and the checkpoint to go on from.

    A resumed folder holds what had happened up to its last checkpoint, and nothing later.

    Raises:
        FedsimError: the folder cannot be used, another process runs in it, or it holds a run of another configuration.
    """
    if not resume or not (Path(out) / "experiment.toml").exists():
        folder = RunFolder.create(out)
        folder.hold()
        folder.write_experiment(
            {
                **tomllib.loads(experiment.config.to_toml()),
                "versions": versions(),
                "data_set": _data_set(experiment),
                "selector": {"needs": sorted(experiment.selector().needs)},
            }
        )
        folder.write_partition(_label_counts(experiment))
        return folder, None
    folder = RunFolder.open(out)
    folder.hold()
    require_same(config.load(folder.experiment), experiment.config, folder.path)
    last = checkpoint.read_last(folder.checkpoint)
    folder.rewind(last.round if last else -1)
    return folder, last


def require_same(before: Config, now: Config, path: Path) -> None:
    """A run goes on as it began; only what changes no result may differ.

    Raises:
        FedsimError: names the first table that differs.
    """
    tables = [one.model_dump(mode="json", exclude={"engine"}) for one in (before, now)]
    different = [key for key in tables[0] if tables[0][key] != tables[1][key]]
    if different:
        raise FedsimError(
            f"--resume: the run in {path} was begun with another [{different[0]}]: {tables[0][different[0]]}, not "
            f"{tables[1][different[0]]}. Give the configuration it was begun with ({path}/experiment.toml), or "
            "another --out."
        )


def versions() -> dict[str, str]:
    """What the run was computed with."""
    packages = ("torch", "torchvision", "flwr", "flwr-datasets", "torchmetrics", "numpy")
    return {
        "fedsim": fedsim.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        **{package: version(package) for package in packages},
    }


def _data_set(experiment: Experiment) -> dict[str, Any]:
    data = experiment.data
    return {
        "classes": list(data.train.classes),
        "train": len(data.train),
        "test": len(experiment.test),
        "label_counts": list(experiment.label_counts),
        "input_shape": list(data.input_shape),
        "mean": list(data.mean),
        "std": list(data.std),
    }


def _label_counts(experiment: Experiment) -> list[list[int]]:
    """Examples of each class, of the first clients and of the last ones, where Mavericks are."""
    clients = len(experiment.shards)
    shown = (
        range(clients)
        if clients <= MOST_CLIENTS
        else [*range(MOST_CLIENTS // 2), *range(clients - MOST_CLIENTS // 2, clients)]
    )
    labels, classes = experiment.data.train.labels, experiment.data.classes
    return [
        [client, *torch.bincount(labels[experiment.shards[client]], minlength=classes).tolist()] for client in shown
    ]
