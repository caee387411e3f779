"""Results as Markdown and as JSON, with the machine and the versions they come from."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from experiments.benchmarks.turns import Measured

PACKAGES = ("torch", "numpy", "flwr", "ray", "pfl")


def machine() -> dict[str, Any]:
    """Processor, cores, memory and versions."""
    return {
        "processor": _first("/proc/cpuinfo", "model name") or platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "memory": _first("/proc/meminfo", "MemTotal"),
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        **{package: _version(package) for package in PACKAGES},
    }


def markdown(found: Sequence[Measured], beside: Sequence[str]) -> str:
    """A row a part.

    Args:
        found: what was measured.
        beside: parts with which each is compared, by name; a column each that says how many times faster.
    """
    others = [measured for measured in found if measured.name in beside]
    titles = ["", "ms a round", *(f"speed / {other.name}" for other in others)]
    titles += ["start-up s", "peak MB", "MB together", "test loss", "accuracy"]
    lines = ["| " + " | ".join(titles) + " |", "|" + "---|" * len(titles)]
    for measured in found:
        end = measured.farewell
        cells = [
            measured.title,
            _cell(measured.seconds, lambda seconds: f"{1_000 * seconds:.1f}"),
            *(_cell(measured.faster_than(other), lambda ratio: f"{ratio:.2f}") for other in others),
            _cell(measured.startup, lambda seconds: f"{seconds:.1f}"),
            _cell(None if end is None else end.peak_mb, lambda size: f"{size:.0f}"),
            _cell(None if end is None else end.together_mb, lambda size: f"{size:.0f}"),
            _cell(None if end is None else end.loss, lambda loss: f"{loss:.3f}"),
            _cell(None if end is None else end.accuracy, lambda accuracy: f"{100 * accuracy:.1f} %"),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    disturbed, turns = sum(m.disturbed for m in found), sum(len(m.turns) for m in found)
    lines += ["", f"Others computed on the machine in {disturbed} of {turns} turns.", ""]
    lines += [*(f"NOT MEASURED to the end: {m.title}: {m.problem}." for m in found if m.problem)]
    return "\n".join(lines).rstrip() + "\n"


def write(out: Path, name: str, settings: dict[str, Any], found: Sequence[Measured], table: str) -> None:
    """Write ``NAME.json`` with every figure, and ``NAME.md``."""
    out.mkdir(parents=True, exist_ok=True)
    results = {"machine": machine(), "settings": settings, "measured": [asdict(measured) for measured in found]}
    (out / f"{name}.json").write_text(json.dumps(results, indent=2) + "\n")
    (out / f"{name}.md").write_text(table)


def _cell(value: float | None, shown: Any) -> str:
    return "-" if value is None else str(shown(value))


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _first(file: str, field: str) -> str | None:
    try:
        lines = Path(file).read_text().splitlines()
    except OSError:
        return None
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(field)), None)
