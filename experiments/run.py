"""Run an experiment: train, listen, attack, write everything down, report."""

from __future__ import annotations

import contextlib
import logging
import platform
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from flwr.app import ArrayRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy
from torch import Tensor

import fedsim
from experiments.attacking import Victims, campaigns
from experiments.experiment import Experiment
from experiments.progress import Progress
from experiments.report import write_report
from experiments.run_folder import RunFolder
from fedsim.arrays import from_record, to_record
from fedsim.engines import Closing
from fedsim.protocol import Observation
from fedsim.transcript import Transcript
from server import HonestButCurious, Round, Selective, federate
from server.evaluation import central_evaluation


@dataclass(frozen=True)
class Result:
    """What a run left.

    Attributes:
        folder: the run folder.
        final_arrays: the global model's state after the last round, on the CPU.
        metrics: a record a round, as in ``metrics.jsonl``.
        attacks: a record a reconstruction, as in ``attacks.jsonl``.
        report: the HTML page.
    """

    folder: Path
    final_arrays: dict[str, Tensor]
    metrics: list[dict[str, Any]]
    attacks: list[dict[str, Any]]
    report: Path

    def summary(self) -> str:
        """What happened, in two or three lines."""
        return summarise(self.metrics, self.attacks)


def run(experiment: Experiment, out: Path | str, *, quiet: bool = True, grid: Grid | None = None) -> Result:
    """Run an experiment into a new folder.

    Args:
        experiment: what to run.
        out: the run folder; it must not hold a run.
        quiet: no progress bars.
        grid: nodes to train on, such as those of Flower's own runtime, in place of the configured engine.

    Raises:
        FedsimError: the configuration cannot work (found before anything is trained), the folder cannot be
            used, or too few clients of a round answered well.
    """
    with _quiet_flower():
        experiment.check()
        campaigns(experiment)
    folder = RunFolder.create(out)
    folder.write_experiment(
        {**tomllib.loads(experiment.config.to_toml()), "versions": versions(), "data_set": _data_set(experiment)}
    )
    with (
        _one_compute_thread(),
        _quiet_flower(),
        _engine(experiment, grid) as engine,
        Progress(experiment.config.training.rounds, quiet=quiet) as progress,
    ):
        victims = Victims(experiment, experiment.config.attacks, folder, progress.attacked)
        final = _train(experiment, engine, folder, victims, progress)
    return Result(
        folder=folder.path,
        final_arrays=final,
        metrics=folder.read_metrics(),
        attacks=folder.read_attacks(),
        report=write_report(folder.path),
    )


def _train(
    experiment: Experiment, grid: Grid, folder: RunFolder, victims: Victims, progress: Progress
) -> dict[str, Tensor]:
    config = experiment.config
    selective = experiment.strategy()
    observers = [
        *([Transcript.create(folder.transcript).append] if config.wiretap.record else []),
        *victims.observers(),
    ]
    strategy: Strategy = HonestButCurious(selective, _each(observers)) if observers else selective
    initial = experiment.model().state_dict()
    arrays = to_record(initial)
    evaluate = central_evaluation(
        experiment.model().to(experiment.device),
        experiment.data.test,
        (experiment.data.mean, experiment.data.std),
    )
    with victims:
        for done in federate(
            strategy,
            grid,
            arrays,
            rounds=config.training.rounds,
            train_config=experiment.plan.to_config(),
            evaluate_fn=evaluate,
            evaluate_every=config.training.evaluate_every,
            timeout=config.training.timeout,
            min_share=config.training.min_share,
        ):
            _write_down(folder, done, selective, experiment)
            victims.attack_round(done.number)
            progress.round(done)
            arrays = done.arrays
    return _as_built(arrays, initial)


def _write_down(folder: RunFolder, done: Round, selective: Selective, experiment: Experiment) -> None:
    losses = list(done.losses.values())
    folder.append_metrics(
        {
            "round": done.number,
            "clients": list(done.clients),
            "train_loss": done.metrics.get("train-loss", sum(losses) / len(losses) if losses else None),
            "test_loss": done.evaluation.get("test-loss"),
            "test_accuracy": done.evaluation.get("test-accuracy"),
            "clients_loss": done.client_evaluation.get("eval-loss"),
            "clients_accuracy": done.client_evaluation.get("eval-accuracy"),
            "seconds": done.seconds,
            "bytes_sent": done.bytes_sent,
            "bytes_received": done.bytes_received,
        }
    )
    if done.number == 0:
        return
    chances = dict(zip(selective.selection.clients, selective.selection.probabilities, strict=True))
    records = []
    for client in done.clients:
        shard = experiment.shard(client)
        records.append(
            {
                "round": done.number,
                "client": client,
                "selected": True,
                "examples": len(shard),
                "probability": chances.get(client),
                "train_loss": done.losses.get(client),
                "label_counts": list(shard.label_counts()),
                "failure": done.failures.get(client),
            }
        )
    folder.append_client(*records)


def versions() -> dict[str, str]:
    """What the run was computed with."""
    packages = ("torch", "torchvision", "flwr", "flwr-datasets", "torchmetrics", "numpy")
    return {
        "fedsim": fedsim.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        **{package: version(package) for package in packages},
    }


def summarise(metrics: list[dict[str, Any]], attacks: list[dict[str, Any]]) -> str:
    """The last accuracy, and for each attack the median PSNR of its first and last round."""
    lines = []
    accuracies = [m["test_accuracy"] for m in metrics if m.get("test_accuracy") is not None]
    if accuracies:
        lines.append(f"Test accuracy {accuracies[0]:.3f} -> {accuracies[-1]:.3f} in {metrics[-1]['round']} rounds.")
    for label in dict.fromkeys(record["attack"] for record in attacks):
        of_label = [record for record in attacks if record["attack"] == label]
        rounds = sorted({record["round"] for record in of_label})
        psnrs = {round: [r["psnr"] for r in of_label if r["round"] == round] for round in rounds}
        medians = [f"{_median(values):.1f} dB in round {round}" for round, values in psnrs.items()]
        baseline = _median([record["baseline_psnr"] for record in of_label])
        lines.append(
            f"{label}: {len(of_label)} victims, median PSNR {', '.join(medians)} (a grey guess: {baseline:.1f} dB)."
        )
    return "\n".join(lines)


def _median(values: list[float]) -> float:
    return float(torch.tensor(values).quantile(0.5))


def _data_set(experiment: Experiment) -> dict[str, Any]:
    data = experiment.data
    return {
        "classes": list(data.train.classes),
        "train": len(data.train),
        "test": len(data.test),
        "input_shape": list(data.input_shape),
        "mean": list(data.mean),
        "std": list(data.std),
    }


def _each(observers: list[Callable[[Observation], None]]) -> Callable[[Observation], None]:
    def observe(observation: Observation) -> None:
        for observer in observers:
            observer(observation)

    return observe


def _as_built(arrays: ArrayRecord, initial: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.to(initial[name].dtype) for name, tensor in from_record(arrays).items()}


@contextlib.contextmanager
def _engine(experiment: Experiment, given: Grid | None) -> Iterator[Grid]:
    """The grid given, which is its owner's to close, or the configured one, which is ours."""
    grid = given or experiment.grid()
    try:
        yield grid
    finally:
        if given is None and isinstance(grid, Closing):
            grid.close()


@contextlib.contextmanager
def _quiet_flower() -> Iterator[None]:
    """Flower logs several lines a round; what they say stands in the run folder."""
    logger = logging.getLogger("flwr")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


@contextlib.contextmanager
def _one_compute_thread() -> Iterator[None]:
    """Workers are the parallelism; a sum split over threads would also round differently."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
