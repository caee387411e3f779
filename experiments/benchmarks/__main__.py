"""``python -m experiments.benchmarks``: all measurements, or ``compute``, ``overhead``, ``resnet18`` or ``scale``."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from experiments.benchmarks import scale, tables
from experiments.benchmarks.contender import CONTENDERS, entry
from experiments.benchmarks.turns import Measured, Part, take_turns
from experiments.benchmarks.workloads import WORKLOADS

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

Turns = Annotated[int, typer.Option(help="Turns of each.")]
Rounds = Annotated[int, typer.Option(help="Rounds counted in a turn, after one that warms up.")]
Waiting = Annotated[float, typer.Option(help="Seconds to wait, altogether, for others to stop computing here.")]
Out = Annotated[Path, typer.Option(help="Folder for JSON, Markdown and logs.")]
Names = Annotated[str, typer.Option(help="Who takes part, with commas: " + ", ".join(CONTENDERS))]

OUT = Path("runs/benchmarks")
ALL = ",".join(CONTENDERS)


@app.callback(invoke_without_command=True)
def everything(context: typer.Context) -> None:
    """All measurements, one after the other."""
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"  # for the processes that are started
    if context.invoked_subcommand is None:
        compute()
        overhead()
        resnet18()
        over_clients()


@app.command()
def compute(
    turns: Turns = 10, rounds: Rounds = 3, contenders: Names = ALL, patience: Waiting = 60, out: Out = OUT
) -> None:
    """LeNet, 100 clients, 10 a round, 19 local steps of batch 32: mostly computing."""
    _compare("compute", turns, rounds, contenders, patience, out)


@app.command()
def overhead(
    turns: Turns = 10, rounds: Rounds = 30, contenders: Names = ALL, patience: Waiting = 60, out: Out = OUT
) -> None:
    """The same with one local step of batch 8: mostly everything else."""
    _compare("overhead", turns, rounds, contenders, patience, out)


@app.command()
def resnet18(
    turns: Turns = 4, rounds: Rounds = 1, contenders: Names = "bare,local-1", patience: Waiting = 60, out: Out = OUT
) -> None:
    """ResNet-18 (11 million parameters), 20 clients, all in each round, one local step of batch 32."""
    _compare("resnet18", turns, rounds, contenders, patience, out)


@app.command("scale")
def over_clients(
    clients: Annotated[str, typer.Option(help="Numbers of clients, with commas.")] = "100,1000,10000,100000",
    workload: Annotated[str, typer.Option(help="compute, overhead or both.")] = "both",
    repeats: Annotated[int, typer.Option(help="Fresh processes for each number of clients.")] = 3,
    turns: Turns = 5,
    rounds: Rounds = 5,
    workers: Annotated[int, typer.Option(help="Of fedsim's local engine.")] = 1,
    patience: Waiting = 60,
    out: Out = OUT,
) -> None:
    """Start-up, seconds a round and peak memory of fedsim at 100 to 100,000 clients, 10 a round."""
    numbers = [int(number) for number in clients.split(",")]
    for name in ("compute", "overhead") if workload == "both" else (workload,):
        runs: list[list[Measured]] = []
        parts, logs = scale.parts(WORKLOADS[name], numbers, workers), out / "logs" / f"scale-{name}"
        for repeat in range(repeats):
            with _progress(f"scale, {name}, {repeat + 1} of {repeats}", len(parts) * (turns + 1)) as step:
                runs.append(take_turns(parts, turns=turns, rounds=rounds, logs=logs, step=step, patience=patience))
        settings = {"turns": turns, "rounds": rounds, "repeats": repeats, "workers": workers}
        scale.write(out, f"scale-{name}", settings, runs)
        typer.echo(f"\n{name}\n\n" + scale.markdown(runs))


def _compare(name: str, turns: int, rounds: int, contenders: str, patience: float, out: Path) -> None:
    workload = WORKLOADS[name]
    parts = [Part(who, entry(who), workload) for who in contenders.split(",")]
    with _progress(name, len(parts) * (turns + 1)) as step:
        found = take_turns(parts, turns=turns, rounds=rounds, logs=out / "logs" / name, step=step, patience=patience)
    table = tables.markdown(found, ("bare", "pool"))
    tables.write(out, name, {"turns": turns, "rounds": rounds, "workload": workload.to_dict()}, found, table)
    typer.echo(f"\n{name}\n\n{table}")


@contextmanager
def _progress(title: str, steps: int) -> Iterator[Callable[[str], None]]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(
        *columns, TimeRemainingColumn(), TextColumn("{task.fields[note]}"), console=Console(stderr=True)
    ) as bars:
        task = bars.add_task(title, total=steps, note="")
        yield lambda note: bars.update(task, advance=1, note=note)


if __name__ == "__main__":
    app()
