"""Attacks on what a run's server overhears, live or from its transcript, scored and written down."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from adversary import ATTACKS
from adversary.campaign import Campaign, refuse, resolve_clients, resolve_rounds
from experiments.config import parameters
from experiments.experiment import Experiment
from experiments.progress import Progress
from experiments.report import write_report
from experiments.report.pictures import strip
from experiments.run_folder import RunFolder
from experiments.scoring import score
from fedsim.errors import FedsimError, invalid
from fedsim.protocol import Observation, Reconstruction
from fedsim.transcript import Transcript

WAITING = 16
"""Observations that may wait for a free worker before training waits for the attacks: bounds the memory."""


def campaigns(experiment: Experiment) -> list[Campaign]:
    """The campaigns of a configuration, each checked against what the protocol will show it.

    Raises:
        FedsimError: unknown attack or parameter, rounds or clients that are not there, or an attack whose
            needs the protocol or the threat model does not meet.
    """
    config = experiment.config
    found = []
    for table in config.attacks:
        clients, per_round = resolve_clients(table.clients, config.data.clients)
        campaign = Campaign(
            attack=ATTACKS.create(table.name, **table.parameters),
            label=table.label or table.name,
            rounds=resolve_rounds(table.rounds, config.training.rounds),
            clients=clients,
            per_round=per_round,
            grants=frozenset(table.grants),
        )
        _check(campaign, experiment)
        found.append(campaign)
    return found


def _check(campaign: Campaign, experiment: Experiment) -> None:
    """Every client that may be attacked has to meet the attack's needs."""
    plan = experiment.plan
    kind = "gradient" if plan.algorithm == "fedsgd" else "model"
    problems: list[str] = []
    for client, shard in enumerate(experiment.shards):
        if campaign.clients is None or client in campaign.clients:
            examples = plan.batches_of(len(shard)) if kind == "gradient" else len(shard)
            found = campaign.attack.needs.unmet(plan, examples, kind, campaign.grants)  # type: ignore[arg-type]
            problems += [problem for problem in found if problem not in problems]
    refuse(problems[:3], campaign.label)


@dataclass(frozen=True)
class _Job:
    """A victim waiting, or being worked on."""

    campaign: Campaign
    observation: Observation
    future: Future[Reconstruction]


class Victims:
    """Runs campaigns on workers of its own while training goes on, and writes each result down.

    Results are written in the order in which victims were overheard, and do not depend on the workers.

    Args:
        experiment: for the threat model's grants and for the truth, which only scoring sees.
        todo: the campaigns.
        folder: where records and pictures go.
        progress: called with the number of victims known of, and a record when one is done.
    """

    def __init__(
        self,
        experiment: Experiment,
        todo: Sequence[Campaign],
        folder: RunFolder,
        progress: Callable[[int, dict[str, Any] | None], None],
    ) -> None:
        self._experiment = experiment
        self._campaigns = todo
        self._folder = folder
        self._progress = progress
        self._overheard: dict[int, Observation] = {}
        self._jobs: list[_Job] = []
        self._submitted = 0
        self._room = threading.Semaphore(WAITING)
        self._workers = ThreadPoolExecutor(
            experiment.config.engine.workers, "attack", initializer=torch.set_num_threads, initargs=(1,)
        )

    def observers(self) -> list[Callable[[Observation], None]]:
        """What the wiretap calls; nothing if nobody is attacked."""
        return [self._overhear] if self._campaigns else []

    def _overhear(self, observation: Observation) -> None:
        if any(c.rounds is None or observation.round in c.rounds for c in self._campaigns):
            self._overheard[observation.client] = observation

    def attack_round(self, round: int) -> None:
        """Start on the victims of a finished round, and write down what is done."""
        heard, self._overheard = self._overheard, {}
        for campaign in self._campaigns:
            for client in campaign.victims(round, list(heard)):
                self.attack(campaign, heard[client])
        self._write_finished()

    def attack(self, campaign: Campaign, observation: Observation) -> None:
        """Start on one victim; waits while too many are waiting already."""
        while not self._room.acquire(timeout=0.2):
            self._write_finished()
        self._submitted += 1
        self._progress(self._submitted, None)
        self._jobs.append(_Job(campaign, observation, self._workers.submit(self._reconstruct, campaign, observation)))

    def _reconstruct(self, campaign: Campaign, observation: Observation) -> Reconstruction:
        try:
            knowledge = self._experiment.knowledge(
                campaign.grants, client=observation.client, round=observation.round
            )
            return campaign.run(
                observation, knowledge, seed=self._experiment.config.seed, device=self._experiment.device
            )
        finally:
            self._room.release()

    def _write_finished(self, *, wait: bool = False) -> None:
        while self._jobs and (wait or self._jobs[0].future.done()):
            job = self._jobs.pop(0)
            record = self._judge(job, job.future.result())
            self._folder.append_attack(record)
            self._progress(self._submitted, record)

    def _judge(self, job: _Job, found: Reconstruction) -> dict[str, Any]:
        seen = job.observation
        images, labels = self._experiment.truth(seen.client, seen.round)
        tables = {table.label or table.name: table for table in self._experiment.config.attacks}
        table = tables.get(job.campaign.label)
        scores = score(found.images, found.labels, images, labels, lpips=table.lpips if table else True)
        ordered = found.images[[i for i in scores.assignment if i < len(found.images)]]
        stem = f"{job.campaign.label}-round-{seen.round}-client-{seen.client}"
        return {
            "attack": job.campaign.label,
            "round": seen.round,
            "client": seen.client,
            "examples": len(images),
            **scores.record(),
            "loss": found.loss,
            "iterations": found.iterations,
            "seconds": found.seconds,
            "stopped_by": found.stopped_by,
            "picture": self._folder.save_picture(stem, strip(images, ordered)),
        }

    def __enter__(self) -> Victims:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._write_finished(wait=True)
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
        changes: its parameters, and ``grants``, as ``key=value``.
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
    given = parameters(changes)
    grants = frozenset(given.pop("grants", ()))
    campaign = Campaign(
        attack=ATTACKS.create(name, **given),
        label=label,
        rounds=tuple(rounds) if rounds is not None else None,
        clients=tuple(clients) if clients is not None else None,
        grants=grants,
    )
    wanted = [entry for entry in transcript.entries if campaign.victims(entry.round, [entry.client])]
    if not wanted:
        recorded = sorted({(entry.round, entry.client) for entry in transcript.entries})
        raise FedsimError(
            f"The transcript has no observation of these clients in these rounds. It has {len(recorded)}, for "
            f"instance (round, client) = {recorded[:5]}."
        )
    before = len(folder.read_attacks())
    with (
        Progress(experiment.config.training.rounds, quiet=quiet) as progress,
        Victims(experiment, [campaign], folder, progress.attacked) as victims,
    ):
        for entry in wanted:
            victims.attack(campaign, transcript.read(entry))
    return Attacked(folder.read_attacks()[before:], write_report(folder.path))
