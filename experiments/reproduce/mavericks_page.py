"""Tables of the Maverick study's rounds to accuracy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

from experiments.compare.paired_rounds import EXACT, FEWEST, Saved, saved
from experiments.compare.statistics import Wait, Waiting, holm, waiting
from experiments.compare.tables import NONE, chance, percent, rounds
from experiments.reproduce.mavericks_picture import figure
from experiments.reproduce.mavericks_records import Record, check_alike, wait
from experiments.reproduce.mavericks_targets import LEAD, targets_table

SHARE_OF_BEST = 0.99
"""Of the best accuracy of uniform selection: the target."""

MAIN = ("uniform", "fedemd", "shapley", "greedyfed")
"""Selectors compared over many seeds, a family of tests of their own."""

EARLY = 25
"""Rounds, the first and the last so many, in which selections of Mavericks are counted."""

TITLES = {
    "one_exclusive": "One exclusive Maverick",
    "two_exclusive": "Two exclusive Mavericks, a class each",
    "three_exclusive": "Three exclusive Mavericks, a class each",
    "three_shared": "Three Mavericks that share a class",
    "two_shared": "Two Mavericks that share a class",
    "cifar10": "CIFAR-10, one exclusive Maverick",
    "fedsgd": "FedSGD, one exclusive Maverick",
}

HEAD = """# Mavericks: whom to choose where one client owns a class

Made by `make reproduce-mavericks` (`python -m experiments.reproduce.mavericks`; configuration:
`experiments/configs/maverick-study.toml`), on the CPU. The layouts of *Maverick Matters* (Huang et al., PAKDD 2023,
arXiv:2106.10734): 50 clients, 5 of them a round, {total} rounds, FedAvg weighted by examples. One exclusive Maverick
has all of class 1 and its share of the rest, 7,080 images against 1,080 of each other client. Runs of the same seed
have the same initial model and shards, whatever the selector.

**What differs from the study**, to fit two cores: the `cnn` of width 8 (three strided convolutions without batch
normalisation; width 16 for CIFAR-10) in place of two convolutions with it; batches of 32 at a learning rate of 0.1 and
momentum 0.5 in place of batches of 4 at 0.001 and momentum 0.9, no step of the learning rate; one local epoch as there.
The learning rate was chosen on uniform selection alone (one seed, 100 rounds, three settings). With FedSGD clients
send the gradient over their whole shard, and the server steps Adam at 0.01; what clients contributed is there that of
a plain step at this rate, so that values are small and `shapley` is close to uniform. Accuracy is on 9,500 test
images; 500 others are the server's, on which `shapley`, `greedyfed` and `s_fedavg` get exact Shapley values (v of
nobody measured, minus the loss). `fedemd`: `l1`, `mean1`, alpha 0.55, beta 0.0055, the defaults, not tuned; the
others' parameters are the defaults too ([selection](../selection.md)).

**How to read it.** R@99 is the first round at or above tau, and tau is 99 % of the best accuracy of any round and
seed of `uniform` in that layout (the pooled maximum), fixed before any other selector is looked at; *own tau* takes
each seed's own uniform run instead. The median is Kaplan and Meier's with its 95 % interval; a run that did not get
there within {total} rounds is censored, and {none} is what these runs do not show. *Saved* is the mean over pairs of
the same seed of the rounds below tau within {total} rounds, minus those of `uniform` (negative: sooner), with its 95 %
paired bootstrap interval (percentiles of 10,000 resamples of seeds; none below {fewest} pairs); p is Wilcoxon's
signed-rank test on the same differences (exact up to {exact} pairs: all signs of the ranks), corrected by Holm over
the main selectors (fedemd, shapley, greedyfed) and over the others apart. With five seeds or fewer no p below 0.06 is
possible, and with five the intervals are rough: those rows are a first look; `--few N` adds seeds. *Mavericks
chosen* is their mean number in a cohort in the first and the last {early} rounds (uniform: 0.1 a Maverick)."""


@dataclass(frozen=True)
class Row:
    """A selector on a layout.

    Attributes:
        selector: its name.
        runs: its finished runs.
        waits: rounds to tau, by seed.
        own: rounds to 99 % of the best of the same seed's uniform run.
        found: Kaplan and Meier's estimate.
        saved: against uniform; ``None`` for uniform itself.
        p_holm: corrected for the other rows of its family.
    """

    selector: str
    runs: Sequence[Record]
    waits: Mapping[int, Wait]
    own: Mapping[int, Wait]
    found: Waiting
    saved: Saved | None
    p_holm: float | None


def write_page(folder: Path, name: str, records: Sequence[Record]) -> None:
    """Write ``name.md`` and ``name.png``.

    Args:
        folder: where to.
        name: of the files, without suffix.
        records: a line a run, by layout, selector and seed.

    Raises:
        FedsimError: runs of one layout have different settings.
    """
    for layout in dict.fromkeys(record["layout"] for record in records):
        check_alike(layout, records)
    total = " or ".join(map(str, sorted({record["total"] for record in records}))) or "no"
    text = [HEAD.format(total=total, none=NONE, early=EARLY, fewest=FEWEST, exact=EXACT)]
    layouts: dict[str, list[Row]] = {}
    for layout in dict.fromkeys(record["layout"] for record in records):
        own = [record for record in records if record["layout"] == layout and record["finished"]]
        if any(record["selector"] == "uniform" for record in own):
            layouts[layout] = rows(own)
    if layouts:
        taus = {layout: tau(of[0].runs) for layout, of in layouts.items()}
        figure(layouts, taus, TITLES).savefig(folder / f"{name}.png", dpi=100)
        text.append(f"![Accuracy, runs at the target, Mavericks chosen and rounds saved]({name}.png)")
    for layout, found in layouts.items():
        text += [f"## {TITLES[layout]}", _lead(found), table(found)]
        if layout == "one_exclusive":
            main = [run for row in found if row.selector in MAIN for run in row.runs]
            text += ["### Other targets", LEAD, targets_table(main, main[0]["total"])]
    missing = [f"{r['layout']}, `{r['selector']}`, seed {r['seed']}" for r in records if not r["finished"]]
    if missing:
        text += ["## Runs that did not finish", "\n".join(f"- {line}" for line in missing)]
    (folder / f"{name}.md").write_text("\n\n".join(text) + "\n")


def tau(uniform: Sequence[Record]) -> float:
    """99 % of the best accuracy of any round of these runs."""
    return SHARE_OF_BEST * float(max(max(record["accuracies"]) for record in uniform))


def rows(records: Sequence[Record]) -> list[Row]:
    """The selectors on one layout, ``uniform`` first, then as they come.

    Args:
        records: finished runs of the layout, of the same settings.
    """
    selectors = dict.fromkeys(["uniform", *(record["selector"] for record in records)])
    runs = {name: [record for record in records if record["selector"] == name] for name in selectors}
    target = tau(runs["uniform"])
    total = records[0]["total"]
    own = {record["seed"]: tau([record]) for record in runs["uniform"]}
    waits = {name: {record["seed"]: wait(record, target) for record in of} for name, of in runs.items()}
    against = {name: saved(waits[name], waits["uniform"], total) for name in selectors if name != "uniform"}
    corrected: dict[str, float | None] = {}
    for main in (True, False):
        family = {name: one for name, one in against.items() if (name in MAIN) == main}
        corrected |= dict(zip(family, holm([one.p for one in family.values()]), strict=True))
    return [
        Row(
            selector=name,
            runs=of,
            waits=waits[name],
            own={r["seed"]: wait(r, own[r["seed"]]) for r in of if r["seed"] in own},
            found=waiting(list(waits[name].values())),
            saved=against.get(name),
            p_holm=corrected.get(name),
        )
        for name, of in runs.items()
    ]


def table(found: Sequence[Row]) -> str:
    """A row a selector."""
    lines = [
        "| selector | seeds | best accuracy | R@99, median | censored | saved, rounds | of uniform's | p | p (Holm) "
        "| R@99, own tau | Mavericks chosen, first | last |",
        "|" + " --- |" * 12,
    ]
    for row in found:
        early, late = (mean(mean(part(run["mavericks"])) for run in row.runs) for part in (_first, _last))
        lines.append(
            f"| `{row.selector}` | {len(row.runs)} | {percent(mean(max(run['accuracies']) for run in row.runs))} "
            f"| {rounds(row.found)} | {row.found.count - row.found.reached} | {_saved(row.saved)} "
            f"| {chance(row.saved.p) if row.saved else NONE} | {chance(row.p_holm)} "
            f"| {rounds(waiting(list(row.own.values())))} | {early:.2f} | {late:.2f} |"
        )
    return "\n".join(lines)


def _lead(found: Sequence[Row]) -> str:
    seconds = sum(run["seconds"] for row in found for run in row.runs)
    runs = sum(len(row.runs) for row in found)
    return f"tau = {100 * tau(found[0].runs):.2f} %; {runs} runs, {seconds / 60:.0f} minutes of rounds."


def _saved(one: Saved | None) -> str:
    if one is None or one.difference is None:
        return f"{NONE} | {NONE}"
    interval = "" if one.low is None or one.high is None else f" [{one.low:+.1f}, {one.high:+.1f}]"
    return f"{one.difference:+.1f}{interval} | {NONE if one.share is None else f'{100 * one.share:+.0f} %'}"


def _first(counts: Sequence[int]) -> Sequence[int]:
    return counts[:EARLY]


def _last(counts: Sequence[int]) -> Sequence[int]:
    return counts[-EARLY:]
