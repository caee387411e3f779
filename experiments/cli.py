"""The command line."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Annotated, cast

import typer
from rich.console import Console
from rich.table import Table

from fedsim.errors import FedsimError

app = typer.Typer(
    help="Federated learning on Flower with an honest-but-curious server built in.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
data_app = typer.Typer(help="Fill and look at the store of data sets (FEDSIM_DATA).", no_args_is_help=True)
app.add_typer(data_app, name="data")

_out = Console()
_err = Console(stderr=True)

Set = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a key, e.g. training.rounds=20.")
]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress bars.")]


@app.command()
def run(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="A TOML file.", show_default=False)],
    changes: Set = None,
    out: Annotated[Path | None, typer.Option(help="Run folder; by default runs/NAME, or NAME-2 and so on.")] = None,
    engine: Annotated[str | None, typer.Option(help="Engine in place of the configuration's.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on after the last finished round of --out.")] = False,
    quiet: Quiet = False,
) -> None:
    """Train, with the attacks of the configuration, and write the report."""
    from experiments.experiment import Experiment
    from experiments.run import run as run_experiment

    overrides = [*(changes or []), *([f"engine.name={engine}"] if engine else [])]
    experiment = Experiment.load(config, overrides)
    if resume and out is None:
        raise FedsimError("--resume needs --out: the folder of the run to go on with.")
    folder = out or _unused(Path("runs") / experiment.config.name)
    result = run_experiment(experiment, folder, quiet=quiet, resume=resume)
    _out.print(f"\n{result.summary()}", highlight=False)
    _out.print(f"Report: {result.report.resolve()}", highlight=False, soft_wrap=True)


@app.command()
def attack(
    run_folder: Annotated[
        Path, typer.Argument(metavar="RUN", help="A run folder with a transcript.", show_default=False)
    ],
    name: Annotated[str, typer.Option("--with", metavar="NAME", help="The attack.", show_default=False)],
    changes: Set = None,
    clients: Annotated[str | None, typer.Option(help="Which clients, e.g. 3,7; by default all recorded.")] = None,
    rounds: Annotated[str | None, typer.Option(help="Which rounds, e.g. 1,50; by default all recorded.")] = None,
    label: Annotated[str | None, typer.Option(help="What the report calls it; the name by default.")] = None,
    quiet: Quiet = False,
) -> None:
    """Attack a recorded transcript, and rewrite the report."""
    from experiments.attacking import attack_run

    result = attack_run(
        run_folder,
        name,
        changes or [],
        clients=_numbers("--clients", clients),
        rounds=_numbers("--rounds", rounds),
        label=label,
        quiet=quiet,
    )
    _out.print(f"\n{result.summary()}", highlight=False)
    _out.print(f"Report: {result.report.resolve()}", highlight=False, soft_wrap=True)


@app.command()
def compare(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="A TOML file.", show_default=False)],
    vary: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=A,B,C", help="Values to compare, e.g. selection.name=uniform,by_examples."),
    ] = None,
    seeds: Annotated[int, typer.Option(help="Runs of each configuration, paired by seed.")] = 5,
    changes: Set = None,
    workers: Annotated[int | None, typer.Option(help="Runs at the same time; by default one a core.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder; by default runs/NAME-compared, or -2 and so on.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Do what is not finished in --out.")] = False,
    target: Annotated[
        float | None, typer.Option(help="Test accuracy to count the rounds to; by default 99 % of the first's best.")
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Run a grid of configurations over seeds, and say which to use; exit code 1 if a run failed."""
    from experiments import config as configuration
    from experiments.compare import compare as compare_grid
    from experiments.compare.tables import failures, terminal

    if resume and out is None:
        raise FedsimError("--resume needs --out: the folder of the comparison to go on with.")
    folder = out or _unused(Path("runs") / f"{configuration.load(config, changes or []).name}-compared")
    result = compare_grid(
        config,
        vary or [],
        seeds,
        folder,
        changes=changes or [],
        workers=workers,
        resume=resume,
        target=target,
        quiet=quiet,
    )
    for table in terminal(result.comparison):
        _out.print(table, "")
    for line in failures(result.comparison):
        _out.print(f"Failed: {line}", highlight=False, markup=False, soft_wrap=True)
    for sentence in result.sentences:
        _out.print(sentence, highlight=False, markup=False, soft_wrap=True)
    _out.print(f"Page: {result.page.resolve()}", highlight=False, markup=False, soft_wrap=True)
    if result.comparison.failures:
        raise typer.Exit(1)


@app.command()
def distill(
    run_folder: Annotated[
        Path, typer.Argument(metavar="RUN", help="The folder of a finished diffusion run.", show_default=False)
    ],
    steps: Annotated[int, typer.Option(help="Steps of the student.")] = 8,
    out: Annotated[Path | None, typer.Option(help="Folder; by default RUN/student-STEPS.")] = None,
    epochs: Annotated[int, typer.Option(help="Passes over the images; more than before goes on.")] = 10,
    data: Annotated[str, typer.Option(help="public: held-out images; generated: samples of the teacher.")] = "public",
    images: Annotated[int, typer.Option(help="How many images at most.")] = 10_000,
    target: Annotated[
        str, typer.Option(help="output: what the teacher answers; trajectory: where its sampling leads.")
    ] = "output",
    start: Annotated[str, typer.Option(help="Weights to begin at: random, or the teacher.")] = "random",
    substeps: Annotated[int, typer.Option(help="The teacher's for one of the student's; of --target trajectory.")] = 8,
    learning_rate: Annotated[float, typer.Option(help="Of Adam.")] = 2e-4,
    ema: Annotated[float, typer.Option(help="Decay of a moving average of the student; 0 for none.")] = 0.0,
    device: Annotated[str | None, typer.Option(help="Where to compute; by default as the run.")] = None,
    quiet: Quiet = False,
) -> None:
    """Distil a diffusion run's global model into few steps; called again, it goes on after its last epoch."""
    from experiments.distilling import distill as distil
    from experiments.lessons import Lessons, Source, Start, Target

    folder = out or run_folder / f"student-{steps}"
    lessons = Lessons(
        steps,
        epochs,
        cast("Source", data),
        images,
        learning_rate=learning_rate,
        target=cast("Target", target),
        start=cast("Start", start),
        substeps=substeps,
        ema=ema,
    )

    def told(epoch: int, loss: float) -> None:
        if not quiet:
            _err.print(f"epoch {epoch}/{epochs}: loss {loss:.4f}", highlight=False)

    distil(run_folder, folder, lessons, device=device, told=told)
    _out.print(f"Student: {folder.resolve()}", highlight=False, soft_wrap=True)


@app.command()
def report(
    run_folders: Annotated[list[Path], typer.Argument(metavar="RUN...", show_default=False)],
) -> None:
    """Write or rewrite report.html."""
    from experiments.report import write_report

    for folder in run_folders:
        _out.print(f"Report: {write_report(folder).resolve()}", highlight=False, soft_wrap=True)


@app.command()
def ranks(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="A TOML file.", show_default=False)],
    changes: Set = None,
) -> None:
    """Say of each layer whether a gradient gives its input away, before anybody trains."""
    from adversary.rgap import rank_analysis
    from experiments.experiment import Experiment

    experiment = Experiment.load(config, changes or [])
    analysis = rank_analysis(experiment.model(), experiment.data.input_shape)
    table = Table(
        "layer", "unknowns", "weight constraints", "gradient constraints", "rank", "", box=None, pad_edge=False
    )
    for layer in analysis.layers:
        counts = (layer.unknowns, layer.weight_constraints, layer.gradient_constraints, layer.rank)
        said = "gives its input away" if layer.solvable else f"hides its input: it {layer.reason}"
        table.add_row(f"{layer.layer} ({layer.kind})", *map(str, counts), said)
    _out.print(table, "")
    _out.print(analysis.verdict(), highlight=False, soft_wrap=True)


@app.command("list")
def list_parts(
    kind: Annotated[str | None, typer.Argument(help="attacks, selectors, strategies, models, data, ...")] = None,
) -> None:
    """What there is by name, third parties' parts included."""
    from experiments.parts import registries
    from fedsim.errors import unknown

    found = registries()
    if kind is not None and kind not in found:
        raise unknown("kind", kind, found)
    for title, registry in found.items():
        if kind in (None, title):
            table = Table(title=title, title_justify="left", box=None, show_header=False, pad_edge=False)
            for name in registry.names():
                parameters = ", ".join(f"{key}={value!r}" for key, value in registry.parameters(name).items())
                text = registry.summary(name) + (f"\n[dim]{_escape(parameters)}[/dim]" if kind and parameters else "")
                table.add_row(f"[bold]{name}[/bold]", text)
            _out.print(table, "")


@data_app.command()
def fetch(names: Annotated[list[str], typer.Argument(metavar="NAME...", show_default=False)]) -> None:
    """Download data sets into the store."""
    from fedsim import data

    for name in names:
        _out.print(f"{name}: {data.fetch(name)}", highlight=False)


@data_app.command("import")
def import_data(
    path: Annotated[Path, typer.Argument(help="A folder of images a class, or an .npz file.", show_default=False)],
    name: Annotated[str, typer.Option(help="What the data set will be called.", show_default=False)],
    size: Annotated[int | None, typer.Option(help="Pixels a side, for images of different sizes.")] = None,
) -> None:
    """Import images of your own into the store."""
    from fedsim import data

    if path.suffix == ".npz":
        if size is not None:
            raise FedsimError("--size is for folders of images; the arrays of an .npz file have one size already.")
        written = data.import_npz(path, name)
    else:
        written = data.import_folder(path, name, size=size)
    _out.print(f"{name}: {written}", highlight=False)


@data_app.command()
def show(
    name: Annotated[str | None, typer.Argument(show_default=False)] = None,
    clients: Annotated[int | None, typer.Option(help="Also deal it out to this many clients.")] = None,
    partition: Annotated[str, typer.Option(help="How it is dealt out.")] = "iid",
    changes: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Partition parameters.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the partition.")] = 0,
) -> None:
    """What a data set holds, and how a partition deals it out; without a name, which data sets are there."""
    from experiments.config import parameters
    from fedsim import data

    if name is None:
        _out.print(data.overview(), highlight=False)
        return
    _out.print(data.show(name), highlight=False)
    if clients is not None:
        found = data.load(name)
        shards = data.partition(
            found.train.labels, partition, clients, classes=found.classes, seed=seed, **parameters(changes or [])
        )
        _out.print(data.describe(shards, found.train.labels, found.train.classes), highlight=False)


def main() -> None:
    """Run the command line; a user's error is one message and exit code 2."""
    logging.getLogger("flwr").setLevel(logging.ERROR)  # it warns of evaluation on clients, which is off by choice
    try:
        app(standalone_mode=True)
    except FedsimError as error:
        _err.print(f"[bold red]Error[/bold red] {_escape(str(error))}", highlight=False, soft_wrap=True)
        sys.exit(2)
    except KeyboardInterrupt:
        _err.print("Interrupted; what was finished is on disk.")
        sys.exit(130)


def _unused(folder: Path) -> Path:
    """The folder, or the first of folder-2, folder-3 ... that is not there yet."""
    number, found = 1, folder
    while found.exists():
        number += 1
        found = folder.with_name(f"{folder.name}-{number}")
    return found


def _escape(text: str) -> str:
    from rich.markup import escape

    return escape(text)


def _numbers(option: str, text: str | None) -> list[int] | None:
    if text is None:
        return None
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        from fedsim.errors import invalid

        raise invalid(option, text, "is not a list of numbers", "Write for instance 3,7") from error


if __name__ == "__main__":
    main()
