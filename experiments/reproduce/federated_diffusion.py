"""What federated diffusion models draw: ``python -m experiments.reproduce.federated_diffusion --out docs/results``.

One federation that trains until a person recognises what it draws (``experiments/configs/federated-diffusion.toml``, 50
minutes or more on two cores; ``--run`` gives the folder of one that is done), and a study of small ones over partitions
of their data, with networks that are told classes and with others. All are ordinary run folders, and one that is cut
off goes on where it stopped; ``--page`` writes the page of what is there.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from experiments import Experiment
from experiments.compare.grid import Job, grid, jobs
from experiments.compare.running import finished
from experiments.report.records import SAMPLES
from experiments.reproduce.federated_diffusion_page import MAIN, PARTITIONS, PICTURED, TOLD, write_page
from experiments.reproduce.long_federation import FOLDER, RUNS, federation
from experiments.reproduce.studies import arguments, carry_out
from experiments.run_folder import RunFolder, read

NAME = "federated-diffusion"
CONFIGS = Path(__file__).parents[1] / "configs"
ONE_CLASS = 'data.partition={ name = "pathological", classes_per_client = 1, assignment = "deterministic" }'
CELLS: Mapping[str, tuple[str, ...]] = {
    PARTITIONS[0]: (),
    PARTITIONS[1]: ('data.partition={ name = "dirichlet", alpha = 1.0, min_size = 32 }',),
    PARTITIONS[2]: ('data.partition={ name = "dirichlet", alpha = 0.1, min_size = 32 }',),
    PARTITIONS[3]: (ONE_CLASS,),
    TOLD[0]: ("task.conditional=true",),
    TOLD[1]: (ONE_CLASS, "task.conditional=true"),
}
"""What is changed of the study's configuration, by what the page calls it."""


def main() -> None:
    """Run what is missing, and write records, pictures and page of what is there."""
    options = arguments(__doc__ or "", NAME, _configure)
    folder = options.run or options.runs / FOLDER.relative_to(RUNS)
    if not options.page:
        federation(folder, options.set, quiet=False)
    remember(options.out, {(MAIN, 0): folder}, options.set)
    for todo in planned(options.runs, options.seeds, options.told_seeds, options.set):
        carry_out(list(todo.values()), options)
        remember(options.out, {(cell, job.seed): job.folder for cell, job in todo.items()}, options.set)
        write_page(options.out, NAME, read(options.out / f"{NAME}.jsonl"))


def planned(runs: Path, seeds: int, told_seeds: int, changes: Sequence[str] = ()) -> list[dict[str, Job]]:
    """The runs of the study by cell, seed by seed, those of networks that are told classes last.

    Raises:
        FedsimError: a change that is no key of the configuration, or does not fit it.
    """
    found = []
    for names, count in ((PARTITIONS, seeds), (TOLD, told_seeds)):
        each = {
            name: jobs(
                grid(CONFIGS / "non-iid-diffusion.toml", [], count, [*CELLS[name], *changes]), runs / _file(name)
            )
            for name in (names if count else ())
        }
        found += [{name: own[place] for name, own in each.items()} for place in range(count)]
    return found


def remember(out: Path, folders: Mapping[tuple[str, int], Path], changes: Sequence[str] = ()) -> None:
    """Put what finished runs left into the records, in place of what stood there, and their pictures beside.

    Args:
        out: of records and pictures.
        folders: of the runs, by cell and seed.
        changes: of the configuration that all of them have.
    """
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{NAME}.jsonl"
    records = {(record["cell"], record["seed"]): record for record in read(path)}
    for (cell, seed), folder in folders.items():
        if finished(folder):
            records[cell, seed] = record(cell, folder, changes)
            if seed == 0 and cell in PICTURED:
                _enlarge(RunFolder(folder).pictures / f"{SAMPLES}.png", out / f"{NAME}{PICTURED[cell]}.png")
    order = [MAIN, *CELLS]
    ranked = sorted(records.values(), key=lambda r: (order.index(r["cell"]), r["seed"]))
    path.write_text("".join(json.dumps(one, separators=(",", ":")) + "\n" for one in ranked))


LEAST_WIDTH = 480
"""Pixels that pictures of samples are enlarged to at most, by a whole factor."""


def record(cell: str, folder: Path, changes: Sequence[str] = ()) -> dict[str, Any]:
    """What a finished run left: its losses by round, and the quality of what it drew by the rounds that judged it."""
    metrics = RunFolder(folder).read_metrics()
    experiment = Experiment.load(RunFolder(folder).experiment)
    return {
        "cell": cell,
        "seed": experiment.config.seed,
        "total": experiment.config.training.rounds,
        "clients": experiment.config.data.clients,
        "parameters": sum(tensor.numel() for tensor in experiment.model().parameters()),
        "changes": list(changes),
        "seconds": round(sum(m["seconds"] for m in metrics), 1),
        "elapsed": round(_elapsed(RunFolder(folder)), 1),
        "losses": [[m["round"], m["test_loss"]] for m in metrics if m["test_loss"] is not None],
        "quality": [
            [m["round"], *(m[f"test_{name}"] for name in ("frechet_distance", "precision", "recall"))]
            for m in metrics
            if m["test_frechet_distance"] is not None
        ],
    }


def _elapsed(folder: RunFolder) -> float:
    """Seconds from the first file to the report, with what goes on between rounds, and while it was cut off."""
    return folder.report.stat().st_mtime - folder.partition.stat().st_mtime


def _enlarge(source: Path, target: Path) -> None:
    """Each pixel of a picture as many, so that small images are seen."""
    with Image.open(source) as picture:
        factor = max(1, LEAST_WIDTH // picture.width)
        picture.resize((factor * picture.width, factor * picture.height), Image.Resampling.NEAREST).save(target)


def _file(name: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in name.lower())


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--run", type=Path, help="folder of the long federation, where it is done already")
    parser.add_argument("--seeds", type=int, default=2, help="of each partition")
    parser.add_argument("--told-seeds", type=int, default=2, help="of networks that are told classes")


if __name__ == "__main__":
    main()
