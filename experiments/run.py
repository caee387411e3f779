"""Run an experiment: train, listen, attack, write everything down, report."""

from __future__ import annotations

import contextlib
import logging
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from flwr.app import ArrayRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy
from torch import Tensor

from experiments import checkpoint
from experiments.attacking import Victims
from experiments.campaigns import campaigns
from experiments.checkpoint import Checkpoint
from experiments.evaluating import evaluation, measured_by
from experiments.experiment import Experiment
from experiments.opening import opened
from experiments.progress import Progress
from experiments.report import write_report
from experiments.report.exposure import distance
from experiments.report.pictures import COLUMNS, grid
from experiments.report.records import SAMPLES
from experiments.run_folder import RunFolder, write_atomically
from fedsim.arrays import from_record, to_record
from fedsim.engines import Closing, Remembering
from fedsim.errors import FedsimError
from fedsim.protocol import Observation
from fedsim.transcript import Transcript
from server import HonestButCurious, Round, Selective, federate
from server.averaging import Averaging
from server.contribution import appraisal
from server.state import restore, snapshot

MODEL = "model.safetensors"
"""The global model's state after the last round, in the run folder."""
AVERAGE = "average.safetensors"
"""Its moving average's, where ``training.ema`` asks for one."""


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


def run(
    experiment: Experiment,
    out: Path | str,
    *,
    quiet: bool = True,
    grid: Grid | None = None,
    resume: bool = False,
) -> Result:
    """Run an experiment into a new folder, or go on with one that was cut off.

    Args:
        experiment: what to run.
        out: the run folder; it must not hold a run, unless resuming.
        quiet: no progress bars.
        grid: nodes to train on, such as those of Flower's own runtime, in place of the configured engine.
        resume: go on after the last finished round of the run in ``out``; it ends in the same bytes as a run
            that was never cut off. A folder without a run is started anew.

    Raises:
        FedsimError: the configuration cannot work (found before anything is trained), the folder cannot be
            used, or too few clients of a round answered well.
    """
    with _quiet_flower():
        experiment.check()
        campaigns(experiment)
    folder, last = opened(experiment, out, resume=resume)
    with (
        _one_compute_thread(),
        _quiet_flower(),
        _engine(experiment, grid) as engine,
        Progress(experiment.config.training.rounds, quiet=quiet) as progress,
    ):
        victims = Victims(experiment, experiment.config.attacks, folder, progress.attacked)
        final, average = _train(experiment, engine, folder, victims, progress, last)
    if average is not None:
        write_atomically(folder.path / AVERAGE, safetensors.torch.save(average))
    write_atomically(folder.path / MODEL, safetensors.torch.save(final))
    _draw(experiment, average or final, folder)
    return Result(
        folder=folder.path,
        final_arrays=final,
        metrics=folder.read_metrics(),
        attacks=folder.read_attacks(),
        report=write_report(folder.path),
    )


def _train(
    experiment: Experiment,
    grid: Grid,
    folder: RunFolder,
    victims: Victims,
    progress: Progress,
    last: Checkpoint | None,
) -> tuple[dict[str, Tensor], dict[str, Tensor] | None]:
    """The final arrays, and their moving average if there is one."""
    config = experiment.config
    selective = experiment.strategy()
    observers = [*_recorder(experiment, folder, last), *victims.observers()]
    strategy: Strategy = HonestButCurious(selective, _each(observers)) if observers else selective
    initial = experiment.model().state_dict()
    averaging = Averaging(strategy, config.training.ema, initial) if config.training.ema else None
    strategy = averaging or strategy
    arrays = to_record(last.arrays if last else initial)
    if last:
        restore(strategy, last.strategy)
        _remind(grid, experiment, last)
    evaluate = evaluation(experiment)
    with victims:
        victims.resume(last.round if last else 0)
        for done in federate(
            strategy,
            grid,
            arrays,
            rounds=config.training.rounds,
            train_config=experiment.plan.to_config(),
            evaluate_fn=(lambda number, _: evaluate(number, averaging.record())) if averaging else evaluate,
            evaluate_every=config.training.evaluate_every,
            first_round=last.round + 1 if last else 1,
            timeout=config.training.timeout,
            min_share=config.training.min_share,
            check_claims=True,
        ):
            _write_down(folder, done, selective, experiment)
            victims.attack_round(done.number)
            progress.round(done)
            arrays = done.arrays
            if done.number:
                clients = grid.states() if isinstance(grid, Remembering) else {}
                state = Checkpoint(done.number, from_record(arrays), snapshot(strategy), clients)
                checkpoint.write(folder.checkpoint, state)
    return _as_built(arrays, initial), averaging.average if averaging else None


def _draw(experiment: Experiment, final: Mapping[str, Tensor], folder: RunFolder) -> None:
    """Picture what the final model draws, if it draws anything."""
    network = experiment.model()
    network.load_state_dict(final)
    with _one_compute_thread():
        images = experiment.task.samples(
            network.to(experiment.device), experiment.data.input_shape, seed=experiment.config.seed
        )
    if images is not None:  # a column a class, where they are drawn of the classes in turn
        columns = experiment.data.classes if experiment.task.conditional else COLUMNS
        folder.save_picture(SAMPLES, grid(images, columns=columns))


def _remind(grid: Grid, experiment: Experiment, last: Checkpoint) -> None:
    """Give the clients back what they kept when the checkpoint was written."""
    if isinstance(grid, Remembering):
        grid.restore(last.clients)
        return
    forgetful = [
        table.name
        for table, part in zip(experiment.config.defences, experiment.defences, strict=True)
        if part.remembers
    ]
    if forgetful:
        raise FedsimError(
            f"--resume: the defence {forgetful[0]!r} keeps something on each client between rounds, which nodes of "
            "Flower's own runtime lose with the run. Start anew with another --out, or use an engine of fedsim."
        )


def _recorder(
    experiment: Experiment, folder: RunFolder, last: Checkpoint | None
) -> list[Callable[[Observation], None]]:
    if not experiment.config.wiretap.record:
        return []
    if last is None:
        shutil.rmtree(folder.transcript, ignore_errors=True)  # of a run that was cut off in its first round
        return [Transcript.create(folder.transcript).append]
    transcript = Transcript.open(folder.transcript)
    transcript.rewind(last.round)
    return [transcript.append]


def _write_down(folder: RunFolder, done: Round, selective: Selective, experiment: Experiment) -> None:
    losses = list(done.losses.values())
    appraised, measured = appraisal(selective), experiment.task.metrics
    folder.append_metrics(
        {
            "round": done.number,
            "clients": list(done.clients),
            "train_loss": done.metrics.get("train-loss", sum(losses) / len(losses) if losses else None),
            **{f"test_{name}": done.evaluation.get(f"test-{name}") for name in measured_by(experiment)},
            **{f"clients_{metric}": done.client_evaluation.get(f"eval-{metric}") for metric in measured},
            "utility_evaluations": appraised.evaluations if appraised else None,
            "utility_before": appraised.before if appraised else None,
            "utility_after": appraised.after if appraised else None,
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
        counts = list(shard.label_counts())
        records.append(
            {
                "round": done.number,
                "client": client,
                "selected": True,
                "examples": len(shard),
                "probability": chances.get(client),
                "duration": (selective.selection.durations or {}).get(client),
                "train_loss": done.losses.get(client),
                "value": appraised.values.get(client) if appraised else None,
                "value_error": appraised.errors.get(client) if appraised else None,
                "label_counts": counts,
                "distance": distance(counts, experiment.label_counts),
                "reported": dict(done.reported.get(client, {})),
                "failure": done.failures.get(client),
            }
        )
    folder.append_client(*records)


def summarise(metrics: list[dict[str, Any]], attacks: list[dict[str, Any]]) -> str:
    """The last accuracy, or loss where there is none, and for each attack the median PSNR of its rounds."""
    lines = []
    accuracies = [m["test_accuracy"] for m in metrics if m.get("test_accuracy") is not None]
    if accuracies:
        lines.append(f"Test accuracy {accuracies[0]:.3f} -> {accuracies[-1]:.3f} in {metrics[-1]['round']} rounds.")
    losses = [m["test_loss"] for m in metrics if m.get("test_loss") is not None]
    if losses and not accuracies:
        lines.append(f"Test loss {losses[0]:.3f} -> {losses[-1]:.3f} in {metrics[-1]['round']} rounds.")
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
