"""Running the grid: a process a run, as many at a time as there are workers."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import threading
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from experiments import config
from experiments.compare.grid import Job
from experiments.experiment import Experiment
from experiments.opening import require_same
from experiments.run import MODEL
from experiments.run_folder import RunFolder
from fedsim.errors import FedsimError

_LOOK = 0.5  # seconds between looks at how far the runs are
_SPAWN = multiprocessing.get_context("spawn")


def finished(folder: Path) -> bool:
    """Whether a run came to its end: it then left its model and its report."""
    return (folder / MODEL).is_file() and RunFolder(folder).report.is_file()


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def check_begun(jobs: Sequence[Job]) -> None:
    """Refuse to go on with runs that were begun with another configuration.

    Raises:
        FedsimError: names the run and the table that differs.
    """
    for job in jobs:
        begun = RunFolder(job.folder).experiment
        if begun.is_file():
            require_same(config.load(begun), job.experiment.config, job.folder)


def run_all(jobs: Sequence[Job], workers: int, *, quiet: bool = True) -> dict[Path, str]:
    """Do the runs that are not finished, each in a process of its own with one compute thread.

    A run that was begun goes on after its last checkpoint. One that fails does not stop the others.

    Args:
        jobs: the runs.
        workers: runs at the same time.
        quiet: no progress bar.

    Returns:
        Why a run failed, by its folder, for those that did.
    """
    waiting = [job for job in jobs if not finished(job.folder)][::-1]
    running: list[_Running] = []
    failures: dict[Path, str] = {}
    with _Bar(jobs, quiet=quiet) as bar:
        try:
            while waiting or running:
                while waiting and len(running) < workers:
                    running.append(_start(waiting.pop()))
                wait([one.process.sentinel for one in running], timeout=_LOOK)
                for one in [one for one in running if not one.process.is_alive()]:
                    running.remove(one)
                    failure = one.failure()
                    if failure is not None:
                        failures[one.job.folder] = failure
                    bar.over(one.job, failure)
                bar.look()
        finally:
            for one in running:
                one.process.terminate()
            for one in running:
                one.process.join()
    return failures


@dataclass(frozen=True)
class _Running:
    job: Job
    process: SpawnProcess
    says: Connection

    def failure(self) -> str | None:
        """Why the run failed; ``None`` if it did not."""
        self.process.join()
        try:
            said: str | None = self.says.recv()
        except EOFError:
            code = self.process.exitcode or 0
            how = f"signal {-code}" if code < 0 else f"exit code {code}"
            said = f"its process ended with {how}; {_log(self.job.folder)} may say more"
        self.says.close()
        return said


def _start(job: Job) -> _Running:
    job.folder.parent.mkdir(parents=True, exist_ok=True)
    receives, sends = _SPAWN.Pipe(duplex=False)
    process = _SPAWN.Process(target=_run, args=(job.experiment, job.folder, sends), name=str(job.folder))
    with _one_thread():
        process.start()
    sends.close()
    return _Running(job, process, receives)


def _run(experiment: Experiment, folder: Path, says: Connection) -> None:
    """What a run's process does: run, and tell how it ended. What it prints goes to a file beside the folder."""
    from experiments.run import run

    threading.Thread(target=_end_with_parent, daemon=True).start()
    with _log(folder).open("ab") as log:
        for stream in (1, 2):
            os.dup2(log.fileno(), stream)
    try:
        run(experiment, folder, resume=True)
    except FedsimError as error:
        says.send(str(error))
    except KeyboardInterrupt:
        says.send("interrupted")
    except Exception as error:  # noqa: BLE001  (whatever it is, the others go on and the table tells)
        traceback.print_exc()
        says.send(f"{type(error).__name__}: {error}; {_log(folder)} says where")
    else:
        says.send(None)


def _end_with_parent() -> None:
    """A run whose comparison was killed must not write on beside the one that resumes it."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _log(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.log")


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Libraries read the number of threads when they are loaded, so the new process must find it there."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


class _Bar:
    """The rounds of all runs on one bar on stderr, and how many runs are over."""

    def __init__(self, jobs: Sequence[Job], *, quiet: bool) -> None:
        self._jobs, self._quiet, self._failed = jobs, quiet, 0
        self._bars = Progress(
            TextColumn("rounds"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=Console(stderr=True),
            disable=quiet,
        )
        total = sum(job.experiment.config.training.rounds for job in jobs)
        self._rounds = self._bars.add_task("rounds", total=total, note="")

    def __enter__(self) -> _Bar:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def over(self, job: Job, failure: str | None) -> None:
        """A run has ended."""
        if failure is not None:
            self._failed += 1
            self._bars.console.print(f"{job.cell.label}, seed {job.seed}, failed: {failure}", markup=False)

    def look(self) -> None:
        """Count the rounds on disk."""
        if self._quiet:
            return
        done = sum(max(0, _lines(RunFolder(job.folder).metrics) - 1) for job in self._jobs)
        over = sum(finished(job.folder) for job in self._jobs)
        failed = f", {self._failed} failed" if self._failed else ""
        self._bars.update(self._rounds, completed=done, note=f"{over} of {len(self._jobs)} runs{failed}")


def _lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.is_file() else 0
