"""Progress bars: rounds with their accuracy, and attacks with their scores."""

from __future__ import annotations

from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from server import Round


class Progress:
    """Two bars on stderr, or nothing at all.

    Args:
        rounds: number of the last round.
        quiet: show nothing.
    """

    def __init__(self, rounds: int, *, quiet: bool) -> None:
        self._bars = Bars(
            TextColumn("{task.description:8}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=Console(stderr=True),
            disable=quiet,
        )
        self._rounds = self._bars.add_task("rounds", total=rounds, note="")
        self._attacks = self._bars.add_task("attacks", total=0, visible=False, note="")

    def __enter__(self) -> Progress:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def round(self, done: Round) -> None:
        """A round is over."""
        self._bars.update(self._rounds, completed=done.number)
        if "test-accuracy" in done.evaluation:
            self._bars.update(self._rounds, note=f"accuracy {done.evaluation['test-accuracy']:.3f}")
        elif "test-loss" in done.evaluation:
            self._bars.update(self._rounds, note=f"loss {done.evaluation['test-loss']:.3f}")

    def attacked(self, total: int, record: dict[str, Any] | None) -> None:
        """``total`` attacks are known of; if ``record`` is given, one of them is over."""
        self._bars.update(self._attacks, total=total, visible=True)
        if record is not None:
            note = f"{record['attack']}, round {record['round']}, client {record['client']}: {record['psnr']:.1f} dB"
            self._bars.update(self._attacks, advance=1, note=note)
