"""Attacks on what a run's server overhears, live or from its transcript, scored and written down."""

from __future__ import annotations

import multiprocessing
import shutil
from collections import defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from adversary.campaign import Campaign, refuse
from experiments.campaigns import Unit, campaign_of, reconstruct_elsewhere, reconstruct_unit
from experiments.config import attack_table, parameters
from experiments.experiment import Experiment
from experiments.progress import Progress
from experiments.report import write_report
from experiments.report.pictures import strip
from experiments.run_folder import RunFolder
from experiments.tables import AttackTable
from fedsim.errors import FedsimError, invalid
from fedsim.protocol import Observation, Reconstruction
from fedsim.transcript import Transcript

WAITING = 16
"""Observations that may wait for a free worker before training waits for the attacks: bounds the memory."""


NO_LABELS: dict[str, Any] = {"label_accuracy": None, "labels_true": [], "labels_found": []}
"""What is written down of labels where the task has none."""


@dataclass(frozen=True)
class _Job:
    """A unit under attack, and whose results of it are to be written down."""

    table: AttackTable
    unit: Unit
    wanted: Sequence[bool]
    found: Future[list[Reconstruction]]


class Victims:
    """Attacks while training goes on, and writes each result down.

    Attacks run in processes of their own, or, without any, in this one after each round. Results are
    written in the order in which victims were overheard, and do not depend on the workers.

    Args:
        experiment: for the threat model's grants and for the truth, which only scoring sees.
        tables: the attacks.
        folder: where records and pictures go.
        progress: called with the number of victims known of, and a record when one is done.
    """

    def __init__(
        self,
        experiment: Experiment,
        tables: Sequence[AttackTable],
        folder: RunFolder,
        progress: Callable[[int, dict[str, Any] | None], None],
    ) -> None:
        self._experiment = experiment
        self._attacks = [(table, campaign_of(experiment.config, table)) for table in tables]
        self._folder = folder
        self._progress = progress
        self._overheard: dict[int, Observation] = {}
        self._before: defaultdict[int, deque[Observation]] = defaultdict(
            lambda: deque(maxlen=max(table.observations for table in tables) - 1)
        )
        self._jobs: deque[_Job] = deque()
        self._submitted = 0
        self._waiting = folder.checkpoint / "overheard"
        self._store: Transcript | None = None
        self._workers: ProcessPoolExecutor | None = None
        if tables and experiment.config.engine.attack_workers:
            self._workers = ProcessPoolExecutor(
                experiment.config.engine.attack_workers,
                multiprocessing.get_context("spawn"),  # forking a process that has threads can lock it up
                initializer=torch.set_num_threads,
                initargs=(1,),
            )

    def resume(self, round: int) -> None:
        """Take up the victims of rounds up to ``round`` that were overheard but are not written down yet."""
        if self._workers is None and all(table.observations == 1 for table, _ in self._attacks):
            return
        if round == 0 or not (self._waiting / "index.jsonl").exists():
            shutil.rmtree(self._waiting, ignore_errors=True)
            self._store = Transcript.create(self._waiting)
            return
        self._store = Transcript.open(self._waiting)
        self._store.rewind(round)
        done = {(r["attack"], r["round"], r["client"]) for r in self._folder.read_attacks()}
        for number in dict.fromkeys(entry.round for entry in self._store.entries):
            heard = {entry.client: entry for entry in self._store.entries if entry.round == number}
            seen = {client: self._store.read(entry) for client, entry in heard.items()}
            for table, campaign in self._attacks:
                for clients in campaign.units(number, list(heard)):
                    wanted = [(campaign.label, number, client) not in done for client in clients]
                    if any(wanted):  # all of a unit is attacked again, as what is found of one depends on all
                        unit = [[*campaign.together(self._before[client]), seen[client]] for client in clients]
                        self.attack(table, unit, wanted)
            self._remember(seen)

    def observers(self) -> list[Callable[[Observation], None]]:
        """What the wiretap calls; nothing if nobody is attacked."""
        return [self._overhear] if self._attacks else []

    def _overhear(self, observation: Observation) -> None:
        if any(campaign.hears(observation.round, observation.client) for _, campaign in self._attacks):
            self._overheard[observation.client] = observation
            if self._store is not None:  # the processes may be cut off with victims waiting
                self._store.append(observation)

    def attack_round(self, round: int) -> None:
        """Start on the victims of a finished round, and write down what is done."""
        heard, self._overheard = self._overheard, {}
        for table, campaign in self._attacks:
            for clients in campaign.units(round, list(heard)):
                self.attack(table, [[*campaign.together(self._before[client]), heard[client]] for client in clients])
        self._remember(heard)
        self._write_finished()

    def _remember(self, heard: Mapping[int, Observation]) -> None:
        """Keep a round's observations for the attacks of later rounds."""
        for client, observation in heard.items():
            self._before[client].append(observation)

    def attack(self, table: AttackTable, unit: Unit, wanted: Sequence[bool] | None = None) -> None:
        """Start on the victims of a unit; waits while too many are waiting already.

        Args:
            table: the attack.
            unit: victims of one round, as ``Campaign.units`` has them.
            wanted: whose results are written down; by default everybody's.
        """
        while self._jobs and sum(len(job.unit) for job in self._jobs) + len(unit) > WAITING:
            wait([self._jobs[0].found])
            self._write_finished()
        wanted = wanted or [True] * len(unit)
        self._submitted += sum(wanted)
        self._progress(self._submitted, None)
        self._jobs.append(_Job(table, unit, wanted, self._submit(table, unit)))

    def _submit(self, table: AttackTable, unit: Unit) -> Future[list[Reconstruction]]:
        if self._workers is not None:
            config = self._experiment.config.model_dump_json()
            return self._workers.submit(reconstruct_elsewhere, config, table, unit)
        done: Future[list[Reconstruction]] = Future()
        done.set_result(reconstruct_unit(self._experiment, table, unit))
        return done

    def _write_finished(self, *, wait_for_all: bool = False) -> None:
        while self._jobs and (wait_for_all or self._jobs[0].found.done()):
            job = self._jobs.popleft()
            for seen, wanted, found in zip(job.unit, job.wanted, job.found.result(), strict=True):
                if wanted:
                    record = self._judge(job.table, seen, found)
                    self._folder.append_attack(record)
                    self._progress(self._submitted, record)

    def _judge(self, table: AttackTable, together: Sequence[Observation], found: Reconstruction) -> dict[str, Any]:
        seen = together[-1]
        # Late, as torchmetrics takes seconds to load: attacking processes and clients of Flower's runtime need none.
        from experiments.scoring import scorable, score

        images, labels = self._experiment.truth(seen.client, seen.round)
        scores = score(found.images, found.labels, images, labels, lpips=table.lpips)
        label = table.label or table.name
        paired = scorable(found.images, images)[0][list(scores.assignment)].float()
        return {
            "attack": label,
            "round": seen.round,
            "client": seen.client,
            "examples": len(images),
            "observations": len(together),
            **scores.record(),
            **({} if self._experiment.task.labelled else NO_LABELS),
            "loss": found.loss,
            "iterations": found.iterations,
            "seconds": found.seconds,
            "stopped_by": found.stopped_by,
            "grants": sorted(table.grants),
            "picture": self._folder.save_picture(
                f"{label}-round-{seen.round}-client-{seen.client}", strip(images, paired)
            ),
        }

    def __enter__(self) -> Victims:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._write_finished(wait_for_all=True)
                if self._store is not None:
                    shutil.rmtree(self._waiting)
        finally:
            if self._workers is not None:
                self._workers.shutdown(cancel_futures=True)


@dataclass(frozen=True)
class Attacked:
    """What ``attack_run`` did: the new records, and the report it wrote."""

    records: list[dict[str, Any]]
    report: Path

    def summary(self) -> str:
        """The new scores, in a line a round."""
        from experiments.run import summarise

        return summarise([], self.records)


def attack_run(
    run: Path | str,
    name: str,
    changes: Sequence[str] = (),
    *,
    clients: Sequence[int] | None = None,
    rounds: Sequence[int] | None = None,
    label: str | None = None,
    quiet: bool = True,
) -> Attacked:
    """Attack the transcript of a run, as if live: same victims, same seeds, same reconstructions.

    Args:
        run: the run folder.
        name: the attack.
        changes: its parameters, ``grants`` and ``observations``, as ``key=value``.
        clients: only these.
        rounds: only these.
        label: what results are called, the name by default; one that the run has already is refused.
        quiet: no progress bars.

    Raises:
        FedsimError: no run or no transcript, unknown attack, or nothing recorded of these victims.
    """
    folder = RunFolder.open(run)
    label = label or name
    if any(record["attack"] == label for record in folder.read_attacks()):
        raise invalid("--label", label, "the run has an attack of this name already", "Give another with --label")
    experiment = Experiment.load(folder.experiment)
    transcript = Transcript.open(folder.transcript)
    table = attack_table(
        {
            "name": name,
            "label": label,
            "rounds": list(rounds) if rounds is not None else "all",
            "clients": list(clients) if clients is not None else "all",
            **parameters(changes),
        }
    )
    campaign = campaign_of(experiment.config, table)
    refuse(campaign.batching_problems(experiment.device), campaign.label)
    cohorts: dict[int, list[int]] = {}
    for entry in transcript.entries:
        cohorts.setdefault(entry.round, []).append(entry.client)
    units = [(round, unit) for round, cohort in cohorts.items() for unit in campaign.units(round, cohort)]
    if not units:
        recorded = sorted({(entry.round, entry.client) for entry in transcript.entries})
        raise FedsimError(
            f"The transcript has no observation of these clients in these rounds. It has {len(recorded)}, for "
            f"instance (round, client) = {recorded[:5]}."
        )
    already = len(folder.read_attacks())
    with (
        Progress(experiment.config.training.rounds, quiet=quiet) as progress,
        Victims(experiment, [table], folder, progress.attacked) as victims,
    ):
        for round, unit in units:
            victims.attack(table, [_seen(transcript, campaign, client, round) for client in unit])
    return Attacked(folder.read_attacks()[already:], write_report(folder.path))


def _seen(transcript: Transcript, campaign: Campaign, client: int, round: int) -> list[Observation]:
    """What is used of a victim, in the order of rounds."""
    *before, own = (entry for entry in transcript.entries if entry.client == client and entry.round <= round)
    return [transcript.read(entry) for entry in [*campaign.together(before), own]]
