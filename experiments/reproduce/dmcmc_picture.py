"""Figures of the reproduction of ``dmcmc``: quality against calls, and rows of samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from experiments.reproduce.dmcmc_page import WAYS, name

MEASURES = {"frechet_distance": "Frechet distance", "precision": "precision", "recall": "recall"}


def curves(records: Sequence[dict[str, Any]], path: Path) -> None:
    """A panel a measure, a line a way, dashed with the chain; the warm-up is not in it. Bars go over all seeds."""
    made = Figure(figsize=(11, 3.8), layout="constrained")
    for panel, (measure, title) in zip(made.subplots(1, 3), MEASURES.items(), strict=True):
        for i, (way, label) in enumerate(WAYS.items()):
            own = [r for r in records if name(r) == way]
            calls = sorted({r["calls"] for r in own})
            found = [[r[measure] for r in own if r["calls"] == count] for count in calls]
            centres = np.array([fmean(values) for values in found])
            around = np.array(
                [[max(0.0, m - min(v)), max(0.0, max(v) - m)] for m, v in zip(centres, found, strict=True)]
            )
            if calls:
                style = "--o" if way.startswith("dmcmc") else "-s"
                panel.errorbar(
                    calls, centres, around.T, fmt=style, color=f"C{i // 2}", label=label, markersize=4, capsize=2
                )
        panel.set(xscale="log", xlabel="calls of the network an image, without warm-up", title=title)
        panel.set_xticks([5, 10, 20, 50], ["5", "10", "20", "50"])
        panel.minorticks_off()
        if measure == "frechet_distance":
            panel.set_yscale("log")
    made.legend(*made.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=8)
    made.savefig(path, dpi=110)


def gallery(rows: Mapping[str, Tensor], path: Path) -> None:
    """A row of images a way.

    Args:
        rows: by the way to draw, one of ``WAYS``, images in [0, 1], [N, 1, H, W], as many of each.
        path: of the PNG.
    """
    shown = {way: rows[way] for way in WAYS if way in rows}
    if not shown:
        return
    made = Figure(figsize=(10.6, 0.62 * len(shown)), layout="constrained")
    for panel, (way, images) in zip(np.atleast_1d(made.subplots(len(shown), 1)), shown.items(), strict=True):
        panel.imshow(np.concatenate(list(images[:, 0].numpy()), axis=1), cmap="gray", vmin=0, vmax=1)
        panel.set(xticks=[], yticks=[])
        panel.set_ylabel(WAYS[way], rotation=0, ha="right", va="center", fontsize=7)
    path.parent.mkdir(parents=True, exist_ok=True)
    made.savefig(path, dpi=110)
