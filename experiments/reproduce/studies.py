"""What reproductions over a grid of runs have in common: their options, and doing the runs that are missing."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console

from experiments.compare.grid import Job
from experiments.compare.running import check_begun, run_all

CONSOLE = Console()


def arguments(description: str, name: str, configure: Callable[[argparse.ArgumentParser], None]) -> argparse.Namespace:
    """Parse the command line of a study.

    Args:
        description: of the command.
        name: of the study, and of the folder of its runs.
        configure: adds the options that are the study's own.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--out", type=Path, default=Path("docs/results"), help="folder of the results")
    parser.add_argument("--runs", type=Path, default=Path("runs") / name, help="folder of the runs")
    configure(parser)
    parser.add_argument("--workers", type=int, default=2, help="runs at the same time")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a change of all runs")
    parser.add_argument("--page", action="store_true", help="run nothing, write the page of what is there")
    logging.getLogger("flwr").setLevel(logging.ERROR)
    return parser.parse_args()


def carry_out(todo: Sequence[Job], options: argparse.Namespace) -> None:
    """Do the runs that are not finished, unless only the page is asked for; those that fail are named.

    Raises:
        FedsimError: a run was begun with another configuration, also where only the page is asked for, as a line says
            with which settings its run was made.
    """
    check_begun(todo)
    if not options.page:
        for folder, why in run_all(todo, options.workers, quiet=False).items():
            CONSOLE.print(f"{folder} failed: {why}", markup=False)
