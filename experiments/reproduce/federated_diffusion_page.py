"""Page and figures of what federated diffusion models draw."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

Record = dict[str, Any]

MAIN = "main"
PARTITIONS = ("IID", "Dirichlet(1)", "Dirichlet(0.1)", "one class a client")
LAST = 3
"""Judgements that a run's quality is the mean of."""
TOLD = ("IID, told classes", "one class a client, told classes")

PICTURED = {MAIN: "", PARTITIONS[0]: "-iid", PARTITIONS[3]: "-one-class", TOLD[0]: "-classes"}
"""What the names of pictures of samples end in, of the first seed."""

HEAD = """# Federated diffusion models

Made by `make reproduce-federated-diffusion` (`python -m experiments.reproduce.federated_diffusion`) on two CPU cores.
Loss is that of held-out images at fixed noise and steps. The Frechet distance is on features of a small classifier of
the same data, trained on the spot: **it is no FID**, and only numbers of one table compare. Precision is the share of
drawn images among the real ones, recall the share of real ones among the drawn (Kynkaanniemi et al. 2019)."""

LONG = """## One federation until its samples are recognised

`experiments/configs/federated-diffusion.toml`: Fashion-MNIST at 28x28, {clients} clients with IID shards, FedSGD with
Adam on the server, 16 images a gradient and all clients in each of {total:,} rounds, v-prediction, a UNet of
{parameters:,} parameters. Evaluated is the moving average of the global model; of what it draws, 512 images by DDIM
with 50 steps. The rounds took {minutes:.0f} minutes in sum, with evaluation, and the whole run **{elapsed:.0f}
minutes**, with a checkpoint after each round, on two cores that other work shared.
{verdict}

![Samples of the trained model]({name}.png)

![Loss and quality over rounds]({name}-quality.png)"""

STUDY = """## Over partitions

`experiments/configs/non-iid-diffusion.toml`: the slice of Fashion-MNIST inside the package at 14x14, 4,000 images over
{clients} clients; each of {total} rounds, five of them take 20 local steps of SGD (momentum 0.9, learning rate 0.04, 16
images); plain FedAvg; a UNet of {parameters:,} parameters, v-prediction, 200 steps of the cosine schedule. The learning
rate was chosen on the loss of one IID client over 200 steps, where 0.1 diverged. 256 images are drawn by DDIM with 25
steps, and compared with 1,000 test images. `one class a client` is the extreme; the others divide each class among
clients in Dirichlet proportions, with 32 images or more for each client. FedSGD with all clients, as above, would be
the same on every partition but for the sizes of shards, so local steps and a part of the clients are what is studied.

The loss is that after the last round; quality is the mean of the last three judgements, rounds 60, 70 and 80, as that
of a single round goes up and down. Means over seeds with each seed's in brackets; with so few seeds only differences
well beyond those between seeds say anything.

{table}

![Loss and Frechet distance over rounds, by partition]({name}-partitions.png)

{pictures}"""

TOLD_HEAD = """## Networks that are told classes

The same with `[task] conditional = true`: the network is told the class of each image, and the samples are of all
classes in turn, a column a class, where those above are of whichever class the noise leads to. Its loss is lower if
knowing the class helps to see the image. What the server learns in return: the labels of a batch are read off the
gradient of the class embedding ([attacks.md](../attacks.md#gradients-of-a-diffusion-loss)).

{table}

{pictures}"""


def write_page(folder: Path, name: str, records: Sequence[Record]) -> None:
    """Write ``name.md`` and its figures of the records that there are.

    Args:
        folder: where to.
        name: of the files.
        records: a line a finished run, see ``federated_diffusion.record``.
    """
    text = [HEAD]
    long = next((record for record in records if record["cell"] == MAIN), None)
    if long is not None:
        _over_rounds([long], ("loss", "Frechet distance", "precision and recall")).savefig(
            folder / f"{name}-quality.png", dpi=100
        )
        minutes, elapsed = long["seconds"] / 60, long["elapsed"] / 60
        shown = {key: long[key] for key in ("clients", "total", "parameters")}
        text += [LONG.format(name=name, minutes=minutes, elapsed=elapsed, verdict=verdict(long), **shown), rounds(long)]
    for head, cells in ((STUDY, PARTITIONS), (TOLD_HEAD, (PARTITIONS[0], TOLD[0], PARTITIONS[3], TOLD[1]))):
        own = [record for record in records if record["cell"] in cells]
        if not any(record["cell"] in (PARTITIONS if head is STUDY else TOLD) for record in own):
            continue
        if head is STUDY:
            _over_rounds(own, ("loss", "Frechet distance")).savefig(folder / f"{name}-partitions.png", dpi=100)
        shown = {key: own[0][key] for key in ("clients", "total", "parameters")}
        pictures = _pictures(folder, name, PARTITIONS if head is STUDY else TOLD)
        text.append(head.format(name=name, table=table(own, cells), pictures=pictures, **shown))
    (folder / f"{name}.md").write_text("\n\n".join(text) + "\n")


def verdict(record: Record) -> str:
    """How far the Frechet distance of round 1 came down."""
    first, last = record["quality"][0], record["quality"][-1]
    share = last[1] / first[1]
    before = f"{share:.1%} of round {first[0]}'s"
    return f"The Frechet distance of round {last[0]:,} is {last[1]:.1f}, **{before}** {first[1]:.0f}."


def rounds(record: Record) -> str:
    """A row an evaluated round."""
    judged = {line[0]: line[1:] for line in record["quality"]}
    rows = ["| round | loss | Frechet distance | precision | recall |", "|" + " --- |" * 5]
    for number, loss in record["losses"]:
        found = judged.get(number)
        cells = f"{found[0]:.1f} | {found[1]:.2f} | {found[2]:.2f}" if found else " |  | "
        rows.append(f"| {number:,} | {loss:.4f} | {cells} |")
    return "\n".join(rows)


def table(records: Sequence[Record], cells: Sequence[str]) -> str:
    """A row a cell: the last loss of its runs, and the mean quality of the last judgements."""
    rows = ["| data | seeds | loss | Frechet distance | precision | recall |", "|" + " --- |" * 6]
    for cell in cells:
        own = [record for record in records if record["cell"] == cell]
        if not own:
            continue
        judged = [_mean_of_last(record["quality"]) for record in own]
        columns = [
            _each([record["losses"][-1][1] for record in own], 4),
            _each([line[1] for line in judged], 1),
            *(_each([line[place] for line in judged], 2) for place in (2, 3)),
        ]
        rows.append(f"| {cell} | {len(own)} | " + " | ".join(columns) + " |")
    return "\n".join(rows)


def _mean_of_last(quality: Sequence[Sequence[float]]) -> list[float]:
    """Each column's mean over the last judgements."""
    return [mean(column) for column in zip(*quality[-LAST:], strict=True)]


def _pictures(folder: Path, name: str, cells: Sequence[str]) -> str:
    """Samples of each cell that has some, under its name."""
    there = {cell: f"{name}{PICTURED[cell]}.png" for cell in cells if cell in PICTURED}
    return "\n\n".join(
        f"Samples after the last round, seed 0, {cell}:\n\n![{cell}]({file})"
        for cell, file in there.items()
        if (folder / file).is_file()
    )


def _each(values: Sequence[float], digits: int) -> str:
    """The mean, and the values if there are several."""
    each = ", ".join(f"{value:.{digits}f}" for value in values)
    return f"{mean(values):.{digits}f} ({each})" if len(values) > 1 else each


def _over_rounds(records: Sequence[Record], panels: Sequence[str]) -> Figure:
    """Curves over rounds: a colour a cell, a line a seed."""
    figure = Figure(figsize=(4.5 * len(panels), 3.4), layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False).flatten()
    names = list(dict.fromkeys(record["cell"] for record in records))
    for panel, what in zip(axes, panels, strict=True):
        for record in records:
            told = record["seed"] == min(r["seed"] for r in records if r["cell"] == record["cell"])
            _curve(panel, what, record, f"C{names.index(record['cell'])}", record["cell"] if told else None)
        panel.set(xlabel="round", title=what)
    if len(names) > 1:
        axes[0].legend(fontsize=8)
    else:
        axes[-1].legend(fontsize=8)
    return figure


def _curve(panel: Axes, what: str, record: Record, colour: str, label: str | None) -> None:
    if what == "loss":
        panel.plot(*zip(*record["losses"], strict=True), color=colour, marker=".", linewidth=1, label=label)
        panel.set_yscale("log")
        return
    where = [line[0] for line in record["quality"]]
    if what == "Frechet distance":
        panel.plot(where, [line[1] for line in record["quality"]], color=colour, marker=".", linewidth=1, label=label)
        panel.set_yscale("log")
        return
    for place, name in ((2, "precision"), (3, "recall")):
        panel.plot(where, [line[place] for line in record["quality"]], marker=".", linewidth=1, label=name)
    panel.set_ylim(0, 1)
