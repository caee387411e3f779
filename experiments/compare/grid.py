"""The grid: every combination of the values to compare, each over the same seeds."""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from experiments.campaigns import campaigns
from experiments.experiment import Experiment
from fedsim.errors import FedsimError, invalid

ONE_CORE = ("engine.workers=1", "engine.attack_workers=0")
"""A run takes one core, as runs are what goes on in parallel; results do not depend on it."""

_OPEN, _CLOSE = "[{", "]}"


@dataclass(frozen=True)
class Cell:
    """One configuration of the grid.

    Attributes:
        label: what tables and pages call it.
        changes: ``key=value`` of what is varied.
        experiments: the configuration under each seed.
    """

    label: str
    changes: tuple[str, ...]
    experiments: tuple[Experiment, ...]

    @property
    def folder(self) -> str:
        """Its folder's name: the changes where those can name a folder, told apart by a digest otherwise."""
        written = ",".join(self.changes) or "as-written"
        plain = re.sub(r"[^A-Za-z0-9._=,-]+", "-", written).strip(".-")[:80]
        return plain if plain == written else f"{plain}-{hashlib.sha256(written.encode()).hexdigest()[:8]}"


@dataclass(frozen=True)
class Job:
    """One run of the grid: a configuration under one seed, and its run folder."""

    cell: Cell
    experiment: Experiment
    folder: Path

    @property
    def seed(self) -> int:
        """Of everything random in the run; runs of the same seed are paired."""
        return self.experiment.config.seed


def grid(config: Path, vary: Sequence[str], seeds: int, changes: Sequence[str] = ()) -> list[Cell]:
    """All cells, each checked before anything runs.

    Args:
        config: a TOML file.
        vary: ``key=a,b,c`` each, values in TOML's notation; commas inside brackets and quotes belong to a value.
        seeds: runs a cell: the configuration's seed and those after it.
        changes: ``key=value`` for all cells.

    Raises:
        FedsimError: an unknown key or part, a wrong value, or a grid that names the same thing twice.
    """
    if seeds < 1:
        raise invalid("--seeds", seeds, "leaves nothing to run", "Use 1 or more; intervals need 2")
    axes = [_axis(one) for one in vary]
    keys = [key for key, _ in axes]
    for key in keys:
        if keys.count(key) > 1:
            raise invalid("--vary", key, "is varied twice", f"Write all values once: --vary {key}=a,b,c")
    names = _short(keys)
    cells = []
    for values in itertools.product(*(values for _, values in axes)):
        pairs = list(zip(keys, names, values, strict=True))
        label = values[0] if len(pairs) == 1 else ", ".join(f"{name}={value}" for _, name, value in pairs)
        varied = tuple(f"{key}={value}" for key, _, value in pairs)
        cells.append(Cell(label or "as written", varied, _checked(config, [*ONE_CORE, *changes], varied, seeds)))
    return cells


def jobs(cells: Sequence[Cell], out: Path) -> list[Job]:
    """All runs; the first seed of every cell comes first, so that a comparison broken off compares something."""
    return [
        Job(cell, experiment, out / "runs" / cell.folder / f"seed-{experiment.config.seed}")
        for experiments in zip(*(cell.experiments for cell in cells), strict=True)
        for cell, experiment in zip(cells, experiments, strict=True)
    ]


def _checked(config: Path, changes: list[str], varied: tuple[str, ...], seeds: int) -> tuple[Experiment, ...]:
    try:
        first = Experiment.load(config, [*changes, *varied])
        first.check()
        campaigns(first)
    except FedsimError as error:
        raise FedsimError(f"With {', '.join(varied)}: {error}" if varied else str(error)) from error
    tables = first.config.model_dump()
    return tuple(Experiment.of(tables | {"seed": first.config.seed + number}) for number in range(seeds))


def _axis(text: str) -> tuple[str, list[str]]:
    key, separator, values = text.partition("=")
    key, found = key.strip(), [value.strip() for value in _split(values)]
    if not separator or not key or not all(found):
        raise invalid(
            "--vary", text, "is not KEY=A,B,C", "Write for instance --vary selection.name=uniform,by_examples"
        )
    if key == "seed":
        raise invalid("--vary", text, "seeds are not compared, but what comparisons are repeated over", "Use --seeds N")
    for value in found:
        if found.count(value) > 1:
            raise invalid("--vary", text, f"{value!r} stands there twice", "Write each value once")
    return key, found


def _split(values: str) -> Iterator[str]:
    """At the commas outside brackets and quotes."""
    depth, quote, start = 0, "", 0
    for place, letter in enumerate(values):
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "\"'":
            quote = letter
        elif letter == "," and depth == 0:
            yield values[start:place]
            start = place + 1
        depth += 0 if quote else (letter in _OPEN) - (letter in _CLOSE)
    yield values[start:]


def _short(keys: list[str]) -> list[str]:
    """The keys' last parts, where these tell them apart."""
    last = [key.rpartition(".")[2] for key in keys]
    return [name if last.count(name) == 1 else key for key, name in zip(keys, last, strict=True)]
