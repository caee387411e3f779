"""A comparison from a configuration to its tables and its page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from experiments.compare.grid import grid, jobs
from experiments.compare.page import render
from experiments.compare.records import Comparison, compared, outcome
from experiments.compare.running import check_begun, cores, run_all
from experiments.compare.story import answer
from experiments.compare.tables import as_json, markdown
from experiments.run_folder import write_atomically
from fedsim.errors import FedsimError, invalid


@dataclass(frozen=True)
class Compared:
    """What a comparison left.

    Attributes:
        folder: with ``compare.json``, ``compare.md``, ``compare.html`` and the run folders under ``runs``.
        comparison: the numbers.
        sentences: the answer; the first says which configuration to use.
        page: the HTML page.
    """

    folder: Path
    comparison: Comparison
    sentences: list[str]
    page: Path


def compare(
    config: Path | str,
    vary: Sequence[str],
    seeds: int,
    out: Path | str,
    *,
    changes: Sequence[str] = (),
    workers: int | None = None,
    resume: bool = False,
    target: float | None = None,
    quiet: bool = True,
) -> Compared:
    """Run a grid of configurations over seeds and compare them.

    Args:
        config: a TOML file.
        vary: ``key=a,b,c`` each.
        seeds: runs a configuration.
        out: folder of the comparison; it must not hold one, unless resuming.
        changes: ``key=value`` for all configurations.
        workers: runs at the same time; the cores there are by default.
        resume: do what is not finished; more values or seeds than before are welcome.
        target: test accuracy in (0, 1] whose round is looked for; by default 99 % of the first configuration's best.
        quiet: no progress bar.

    Raises:
        FedsimError: the grid cannot work (found before anything runs), or the folder cannot be used.
    """
    if target is not None and not 0 < target <= 1:
        raise invalid("--target", target, "is not an accuracy between 0 and 1", "Write for instance 0.8 for 80 %")
    if workers is not None and workers < 1:
        raise invalid("--workers", workers, "leaves nobody to run", "Use 1 or more")
    cells = grid(Path(config), vary, seeds, changes)
    folder = _folder(Path(out), resume=resume)
    todo = jobs(cells, folder)
    check_begun(todo)
    failures = run_all(todo, workers or cores(), quiet=quiet)
    of_cell = [[outcome(job, failures.get(job.folder)) for job in todo if job.cell is cell] for cell in cells]
    settings = [cell.experiments[0].config for cell in cells]
    found = compared(settings[0].name, cells, of_cell, target, max(one.training.rounds for one in settings))
    sentences = answer(found)
    page = folder / "compare.html"
    write_atomically(page, render(found, sentences).encode())
    write_atomically(folder / "compare.json", as_json(found, sentences).encode())
    write_atomically(folder / "compare.md", markdown(found, sentences).encode())
    return Compared(folder, found, sentences, page)


def _folder(path: Path, *, resume: bool) -> Path:
    if not resume and (path / "runs").exists():
        raise FedsimError(f"{path} holds a comparison already. Choose another --out, or go on with it by --resume.")
    try:
        (path / "runs").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FedsimError(f"{path} cannot be a folder ({error.strerror}). Choose another --out.") from error
    return path
