"""A process and all that descends from it, as Linux knows them: to stop and continue them, and their memory."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

PROC = Path("/proc")


def family(pid: int) -> list[int]:
    """A process and its descendants; the process alone where there is no ``/proc``."""
    children: dict[int, list[int]] = {}
    for folder in PROC.glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1])
        except (OSError, IndexError, ValueError):
            continue  # it ended meanwhile
        children.setdefault(parent, []).append(int(folder.name))
    found = [pid]
    for member in found:
        found += children.get(member, [])
    return found


def send(pids: list[int], number: signal.Signals) -> None:
    """Send a signal to those that still live."""
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue


def peak_mb(pid: int) -> float:
    """The largest resident memory that a process ever had, in MB; 0 if unknown.

    Not ``ru_maxrss``, which a new process inherits from the one that started it.
    """
    return _kilobytes(PROC / str(pid) / "status", "VmHWM:") / 1_000


def together_mb(pids: list[int]) -> float:
    """Memory of processes at this moment, in MB, what they share counted once (PSS)."""
    return sum(_kilobytes(PROC / str(pid) / "smaps_rollup", "Pss:") for pid in pids) / 1_000


def busy_cores(window: float = 0.1) -> float:
    """How many cores are busy, over the next ``window`` seconds; 0 where the system does not say."""
    before = _busy_seconds()
    time.sleep(window)
    return (_busy_seconds() - before) / window


def _busy_seconds() -> float:
    try:
        line = (PROC / "stat").read_text().splitlines()[0]
    except OSError:
        return 0.0
    user, nice, system, _idle, _iowait, irq, softirq, steal = (int(ticks) for ticks in line.split()[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def _kilobytes(file: Path, field: str) -> float:
    try:
        lines = file.read_text().splitlines()
    except OSError:
        return 0.0
    return next((float(line.split()[1]) * 1.024 for line in lines if line.startswith(field)), 0.0)
