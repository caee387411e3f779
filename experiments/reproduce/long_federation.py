"""The long federated training of a diffusion model, which several studies take up."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from experiments import Experiment, run
from experiments.compare.running import finished

CONFIG = Path(__file__).parents[1] / "configs" / "federated-diffusion.toml"

RUNS = Path("runs/federated-diffusion")
"""Of the study of federated diffusion models."""

FOLDER = RUNS / "main"
"""Where each study looks for the long run, so that it is trained once for all of them."""


def federation(folder: Path, changes: Iterable[str] = (), *, quiet: bool = True) -> None:
    """Train it, unless its run is finished; one that was cut off goes on.

    Args:
        folder: of the run.
        changes: of the configuration, ``key=value``.
        quiet: no progress bars.
    """
    if not finished(folder):
        run(Experiment.load(CONFIG, changes), folder, quiet=quiet, resume=True)
