"""What the runs of a comparison left, and what follows from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

from experiments.compare.grid import Cell, Job
from experiments.compare.running import finished
from experiments.compare.statistics import (
    Mean,
    Paired,
    Wait,
    Waiting,
    first_at,
    holm,
    log_rank,
    mean,
    paired,
    pairs,
    waiting,
)
from experiments.run_folder import RunFolder

SHARE_OF_BEST = 0.99
"""Without a target, that share of the first configuration's best accuracy, in the mean over seeds, is the target."""


@dataclass(frozen=True)
class Outcome:
    """One run.

    Attributes:
        seed: of the run.
        folder: the run folder.
        finished: whether it came to its end.
        failure: why it did not.
        last: the last round written down, 0 if there is none.
        accuracies: test accuracy by evaluated round.
        psnr: by attack, the median PSNR in decibels over its victims.
        seconds: of all rounds.
    """

    seed: int
    folder: Path
    finished: bool
    failure: str | None
    last: int
    accuracies: Mapping[int, float]
    psnr: Mapping[str, float]
    seconds: float

    @property
    def final(self) -> float | None:
        """The accuracy after the last round; a run that did not finish has none."""
        return list(self.accuracies.values())[-1] if self.finished and self.accuracies else None

    @property
    def best(self) -> float | None:
        """The best accuracy of any round of a finished run."""
        return max(self.accuracies.values()) if self.finished and self.accuracies else None

    def wait_for(self, target: float) -> Wait:
        """The first evaluated round at the target; a run that never got there, or failed before, is censored."""
        return first_at(self.accuracies, target, self.last)


@dataclass(frozen=True)
class Summary:
    """One configuration over its seeds.

    Attributes:
        label: what it is called.
        changes: what is varied in it.
        runs: one a seed.
        final: test accuracy after the last round, of the runs that finished.
        best: best test accuracy of a run, likewise.
        rounds: rounds to the target, of all runs.
        psnr: by attack, the mean over runs of the median over victims, in decibels.
    """

    label: str
    changes: tuple[str, ...]
    runs: tuple[Outcome, ...]
    final: Mean
    best: Mean
    rounds: Waiting
    psnr: Mapping[str, Mean]

    @property
    def failures(self) -> list[Outcome]:
        """The runs that did not finish."""
        return [run for run in self.runs if not run.finished]


@dataclass(frozen=True)
class Pair:
    """Two configurations against each other.

    Attributes:
        first: position of the one.
        second: position of the other.
        accuracy: their final accuracies over the seeds that both finished.
        speed: log-rank test of their rounds to the target, over all runs; ``None`` if it tells nothing.
        speed_holm: the same, corrected for the number of pairs.
    """

    first: int
    second: int
    accuracy: Paired
    speed: float | None
    speed_holm: float | None


@dataclass(frozen=True)
class Comparison:
    """All configurations, and all pairs of them.

    Attributes:
        name: of the experiment.
        summaries: in the order of the grid.
        pairs: every two of them.
        target: the test accuracy whose round is looked for; ``None`` if no accuracy is known.
        target_given: whether the user named it.
        total: rounds of a run.
    """

    name: str
    summaries: tuple[Summary, ...]
    pairs: tuple[Pair, ...]
    target: float | None
    target_given: bool
    total: int

    @property
    def failures(self) -> list[tuple[str, Outcome]]:
        """Runs that did not finish, with the label of their configuration."""
        return [(summary.label, run) for summary in self.summaries for run in summary.failures]

    def pair(self, first: int, second: int) -> tuple[Pair, float]:
        """The pair of two configurations, and 1 or -1: whether its difference is the first minus the second."""
        wanted = (min(first, second), max(first, second))
        return next(one for one in self.pairs if (one.first, one.second) == wanted), 1.0 if first < second else -1.0


def outcome(job: Job, failure: str | None = None) -> Outcome:
    """What a run left in its folder.

    Raises:
        FedsimError: a file in it is damaged.
    """
    folder = RunFolder(job.folder)
    metrics, victims = folder.read_metrics(), folder.read_attacks()
    done = finished(job.folder)
    labels = dict.fromkeys(str(victim["attack"]) for victim in victims)
    counted = {
        label: [float(v["psnr"]) for v in victims if v["attack"] == label and v.get("psnr") is not None]
        for label in labels
    }
    return Outcome(
        seed=job.seed,
        folder=job.folder,
        finished=done,
        failure=None if done else failure or "did not finish",
        last=int(metrics[-1]["round"]) if metrics else 0,
        accuracies={int(m["round"]): float(m["test_accuracy"]) for m in metrics if m.get("test_accuracy") is not None},
        psnr={label: median(values) for label, values in counted.items() if values},
        seconds=sum(float(m.get("seconds") or 0) for m in metrics),
    )


def compared(
    name: str, cells: Sequence[Cell], outcomes: Sequence[Sequence[Outcome]], target: float | None, total: int
) -> Comparison:
    """Compare configurations by their runs.

    Args:
        name: of the experiment.
        cells: the configurations.
        outcomes: the runs of each.
        target: test accuracy whose round is looked for, or ``None`` for ``SHARE_OF_BEST``.
        total: rounds of a run.
    """
    aim = target if target is not None else _default_target(outcomes[0])
    waits = [[run.wait_for(aim) for run in runs] if aim is not None else [] for runs in outcomes]
    summaries = [
        Summary(
            label=cell.label,
            changes=cell.changes,
            runs=tuple(runs),
            final=mean([run.final for run in runs if run.final is not None]),
            best=mean([run.best for run in runs if run.best is not None]),
            rounds=waiting(waited),
            psnr={
                label: mean([run.psnr[label] for run in runs if run.finished and label in run.psnr])
                for label in dict.fromkeys(label for run in runs for label in run.psnr)
            },
        )
        for cell, runs, waited in zip(cells, outcomes, waits, strict=True)
    ]
    finals = [{run.seed: run.final for run in runs if run.final is not None} for runs in outcomes]
    among = pairs(len(cells))
    tests = [paired(finals[a], finals[b]) for a, b in among]
    speeds = [log_rank(waits[a], waits[b]) for a, b in among]
    corrected, corrected_speeds = holm([test.p for test in tests]), holm(speeds)
    return Comparison(
        name=name,
        summaries=tuple(summaries),
        pairs=tuple(
            Pair(a, b, replace(test, p_holm=p), speed, q)
            for (a, b), test, p, speed, q in zip(among, tests, corrected, speeds, corrected_speeds, strict=True)
        ),
        target=aim,
        target_given=target is not None,
        total=total,
    )


def _default_target(runs: Sequence[Outcome]) -> float | None:
    best = mean([run.best for run in runs if run.best is not None]).value
    return None if best is None else SHARE_OF_BEST * best
