"""DLG and iDLG on single CIFAR-10 images: ``python -m experiments.reproduce.dlg_single --out docs/results``.

LeNet with weights uniform in [-0.5, 0.5], fresh for each victim; the first test images, in [0, 1] and
not normalised, as in the code of DLG's authors; one image a gradient.
"""

from __future__ import annotations

import argparse
from typing import Any

from experiments.reproduce.victims import CONSOLE, Task, arguments, run_all, summary, table

NAME = "dlg_single"

PARAMETERS: dict[str, dict[str, Any]] = {"dlg": {}, "idlg": {"iterations": 1_500, "restarts": 1}}
"""DLG as it comes; of iDLG the labels are the point, which it reads before the search begins."""


def main() -> None:
    """Run what is missing, then write table and pictures."""
    options = arguments(__doc__ or "", _configure)
    tasks = [
        Task(attack, attack, PARAMETERS[attack], "lenet", {}, victim, (victim,), normalise=False)
        for attack in ("dlg", "idlg")
        for victim in range(options.victims)
    ]
    records = run_all(tasks, options.out, NAME, options.workers)
    text = [
        "# DLG and iDLG, one image a gradient",
        "CIFAR-10, the first test images in [0, 1] without normalisation; `lenet` with fresh weights for each "
        "victim; `dlg` with its default parameters, `idlg` with one start of 1,500 iterations. Restarts are chosen by "
        "the attacks' own objective. "
        "Every victim counts.",
        "Made by `python -m experiments.reproduce.dlg_single`, on one thread of a CPU, which also writes the "
        "originals above the reconstructions to `docs/results/pictures/`.",
    ]
    for attack in ("dlg", "idlg"):
        own = [record for record in records if record["name"] == attack]
        CONSOLE.print(f"{attack}: {summary(own)}")
        text += [f"## {attack}", summary(own), table(own)]
    (options.out / f"{NAME}.md").write_text("\n\n".join(text) + "\n")


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--victims", type=int, default=20, help="number of victims")


if __name__ == "__main__":
    main()
