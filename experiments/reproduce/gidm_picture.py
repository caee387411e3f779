"""The picture of the attacks on gradients of a diffusion loss: the truth above what each method made of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file

from experiments.report.pictures import grid
from experiments.reproduce.victims import Task

ROWS = ("gidm/first/four steps", "gidm", "gidm, from features", "pixels", "dlg", "inverting_gradients")
"""Of the trained victims, below the truth."""

SCALE = 2


def write_picture(folder: Path, name: str, tasks: Sequence[Task]) -> None:
    """Write ``name.png``: a column a victim of the trained network, a row a method; grey where it has not run.

    Args:
        folder: of the results, with the images of every task in ``pictures/name.safetensors``.
        name: of the file, without suffix.
        tasks: of which the trained victims are shown.
    """
    pictures = folder / "pictures" / f"{name}.safetensors"
    kept = load_file(pictures) if pictures.exists() else {}
    victims = sorted({task.victim for task in tasks if f"trained-gidm-{task.victim}/truth" in kept})
    if not victims:
        return
    truths = {victim: kept[f"trained-gidm-{victim}/truth"] for victim in victims}
    rows = [truths[victim] for victim in victims]
    for method in ROWS:
        rows += [
            kept.get(f"trained-{method}-{victim}/found", torch.full_like(truths[victim], 127)) for victim in victims
        ]
    shown = (torch.cat(rows) / 255).repeat_interleave(SCALE, 2).repeat_interleave(SCALE, 3)
    (folder / f"{name}.png").write_bytes(grid(shown, columns=len(victims)))
