"""Tables and figure of what selection exposes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.compare.statistics import Mean, holm, paired
from experiments.compare.statistics import mean as mean_of
from experiments.compare.tables import NONE, chance
from experiments.report.story import RECOGNISABLE

Record = dict[str, Any]
Measure = Callable[[Sequence[Record]], float | None]

HEAD = """# Does favouring Mavericks expose them?

Made by `make reproduce-exposure` (`python -m experiments.reproduce.exposure`), on the CPU. Fashion-MNIST, 50
clients, 5 a round, 200 rounds; client 49 alone has class 1 (7,080 images against 1,080;
`experiments/configs/maverick-study.toml`). FedSGD on batches of four, a `cnn` of width 16 with GELU, Adam at 0.003
on the server. Whoever is chosen in the rounds {attacked} is attacked inside the protocol by `inverting_gradients`
with {iterations} iterations and one start, labels recovered from the gradient: {attacks} attacks over {seeds} seeds
a selector. Gradients of the young network give pictures away, those of the trained one hardly: what an attack gets
depends on *when* a client is chosen as much as on how often.

The numbers are those of each run's [exposure ledger](../selection.md#the-exposure-ledger), averaged over the clients
of a group, then over seeds with Student's 95 % interval, cut off at 0 and, of shares, at 100 %; with few seeds it is
wide, and there is one Maverick a run.
*Chosen*: rounds in the cohort. *Attacks*: how many of those were attacked. *Recovered*: reconstructions of
{threshold:.0f} dB or more, and better than a uniform grey, for each client; an attack that failed is none. *Clients
recovered*: share of clients with at least one. *Best PSNR*: of clients attacked at least once (runs in which none was
are left out), and beside it the best of a uniform grey over the same attacks. *Labels*: mean share found of each
attack; *guess* is what a guess of every class equally often finds. Accuracy is the last one of the test images."""

LEAD = """The Maverick's numbers minus those of the same seeds' uniform runs, with Student's paired 95 % interval and
p-value, corrected by Holm over the rows."""


def write_page(folder: Path, name: str, records: Sequence[Record], *, iterations: int) -> None:
    """Write ``name.md`` and ``name.png``.

    Args:
        folder: where to.
        name: of the files, without suffix.
        records: a line a client and run.
        iterations: of each attack.
    """
    rounds = sorted({round for record in records for round in record["rounds"]})
    text = [
        HEAD.format(
            attacked=", ".join(map(str, rounds)),
            iterations=iterations,
            attacks=sum(len(record["rounds"]) for record in records),
            seeds=len({record["seed"] for record in records}),
            threshold=RECOGNISABLE,
        )
    ]
    if records:
        figure(records).savefig(folder / f"{name}.png", dpi=100)
        text += [f"![Recovered, clients recovered, PSNR over rounds]({name}.png)", table(records)]
        text += ["## The Maverick, against uniform selection", LEAD, against_uniform(records)]
    (folder / f"{name}.md").write_text("\n\n".join(text) + "\n")


def chosen(clients: Sequence[Record]) -> float | None:
    """Rounds in the cohort, in the mean over clients."""
    return float(mean(client["chosen"] for client in clients))


def attacked(clients: Sequence[Record]) -> float | None:
    """Attacks on a client, in the mean."""
    return mean(len(client["rounds"]) for client in clients)


def recovered(clients: Sequence[Record]) -> float | None:
    """Reconstructions that are recognisable, in the mean over clients."""
    return float(mean(client["recovered"] for client in clients))


def clients_recovered(clients: Sequence[Record]) -> float | None:
    """Share of clients with at least one recognisable reconstruction; who was never attacked has none."""
    return float(mean(client["recovered"] > 0 for client in clients))


def best(clients: Sequence[Record]) -> float | None:
    """The best PSNR of a client, in the mean over those attacked."""
    return _known([client["best"] for client in clients])


def best_grey(clients: Sequence[Record]) -> float | None:
    """The best that a uniform grey scores over the same attacks."""
    return _known([client["best_grey"] for client in clients])


def labels(clients: Sequence[Record]) -> float | None:
    """Share of labels found, in the mean over attacks."""
    return _known([share for client in clients for share in client["labels"]])


def guess(clients: Sequence[Record]) -> float | None:
    """What a guess of every class equally often finds of them, likewise."""
    return _known([share for client in clients for share in client["guess"]])


SHARES = (clients_recovered, labels, guess)
COMPARED: dict[str, Measure] = {"chosen": chosen, "attacks": attacked, "recovered": recovered, "best PSNR, dB": best}
"""What is compared with uniform selection, by the head of its column."""


def by_seed(records: Sequence[Record], selector: str, *, maverick: bool, measure: Measure) -> dict[int, float]:
    """A measure of a group of clients in each run of a selector, where it is defined."""
    own = [r for r in records if r["selector"] == selector and r["maverick"] == maverick]
    found = {seed: measure([r for r in own if r["seed"] == seed]) for seed in dict.fromkeys(r["seed"] for r in own)}
    return {seed: value for seed, value in found.items() if value is not None}


def over_seeds(records: Sequence[Record], selector: str, *, maverick: bool, measure: Measure) -> Mean:
    """The mean of a measure over runs; no measure is below 0, and shares are at most 1, and so are the intervals."""
    found = mean_of(list(by_seed(records, selector, maverick=maverick, measure=measure).values()))
    if found.low is None or found.high is None:
        return found
    return replace(found, low=max(found.low, 0.0), high=min(found.high, 1.0) if measure in SHARES else found.high)


def table(records: Sequence[Record]) -> str:
    """A row a selector and group of clients."""
    lines = [
        "| selector | clients | runs | accuracy | chosen | attacks | recovered | clients recovered | best PSNR, dB "
        "| grey, dB | labels | guess |",
        "|" + " --- |" * 12,
    ]
    for selector in _selectors(records):
        for maverick in (True, False):

            def cell(measure: Measure, form: str, selector: str = selector, maverick: bool = maverick) -> str:
                return _shown(over_seeds(records, selector, maverick=maverick, measure=measure), form)

            runs = {r["seed"]: r["accuracy"] for r in records if r["selector"] == selector}
            lines.append(
                f"| `{selector}` | {'Maverick' if maverick else 'others'} | {len(runs)} | {mean(runs.values()):.1%} "
                f"| {cell(chosen, '.1f')} | {cell(attacked, '.1f')} | {cell(recovered, '.2f')} "
                f"| {cell(clients_recovered, '.0%')} | {cell(best, '.1f')} | {cell(best_grey, '.1f')} "
                f"| {cell(labels, '.0%')} | {cell(guess, '.0%')} |"
            )
    return "\n".join(lines)


def against_uniform(records: Sequence[Record]) -> str:
    """A row a selector: the Maverick's numbers minus those under uniform selection."""
    others = [selector for selector in _selectors(records) if selector != "uniform"]
    lines = ["| selector | " + " | ".join(f"{head} | p" for head in COMPARED) + " |", "|" + " --- |" * 9]
    cells: dict[str, list[str]] = {selector: [] for selector in others}
    for measure in COMPARED.values():
        values = {s: by_seed(records, s, maverick=True, measure=measure) for s in ("uniform", *others)}
        tests = [paired(values[selector], values["uniform"]) for selector in others]
        for selector, test, p in zip(others, tests, holm([test.p for test in tests]), strict=True):
            found = Mean(test.count, test.difference, test.low, test.high)
            cells[selector] += [_shown(found, "+.1f"), chance(p)]
    return "\n".join([*lines, *(f"| `{selector}` | {' | '.join(row)} |" for selector, row in cells.items())])


def figure(records: Sequence[Record]) -> Figure:
    """Three panels: reconstructions recovered, share of clients, and PSNR over rounds."""
    made = Figure(figsize=(12, 3.8), layout="constrained")
    counts, shares, rounds = made.subplots(1, 3)
    _bars(counts, records, recovered)
    counts.set_title(f"reconstructions of {RECOGNISABLE:.0f} dB or more, a client")
    _bars(shares, records, clients_recovered)
    shares.set_title("share of clients with one")
    _over_rounds(rounds, records)
    rounds.set_title("PSNR of the attacks, median and quartiles")
    counts.legend(fontsize=8)
    rounds.legend(fontsize=8)
    return made


def _bars(panel: Axes, records: Sequence[Record], measure: Measure) -> None:
    selectors = _selectors(records)
    for place, (maverick, word) in enumerate(((True, "Maverick"), (False, "others"))):
        found = [over_seeds(records, s, maverick=maverick, measure=measure) for s in selectors]
        x, centres = np.arange(len(selectors)) + 0.2 * (2 * place - 1), [one.value or 0.0 for one in found]
        reach = np.array([_reach(one) for one in found]).T
        panel.bar(x, centres, width=0.38, label=word, color=f"C{1 - place}", yerr=reach, capsize=2)
    panel.set_ylim(bottom=0)
    panel.set_xticks(range(len(selectors)), selectors, rotation=25)


def _reach(found: Mean) -> tuple[float, float]:
    """From the mean down and up to the ends of its interval."""
    if found.value is None or found.low is None or found.high is None:
        return 0.0, 0.0
    return found.value - found.low, found.high - found.value


def _over_rounds(panel: Axes, records: Sequence[Record]) -> None:
    for place, (maverick, word) in enumerate(((True, "Maverick"), (False, "others"))):
        scores: dict[int, list[float]] = {}
        for record in records:
            if record["maverick"] == maverick:
                for round, psnr in zip(record["rounds"], record["psnr"], strict=True):
                    scores.setdefault(round, []).append(psnr)
        rounds = sorted(scores)
        low, centre, high = np.array([np.quantile(scores[r], [0.25, 0.5, 0.75]) for r in rounds]).reshape(-1, 3).T
        panel.plot(rounds, centre, marker=".", color=f"C{1 - place}", label=word)
        panel.fill_between(rounds, low, high, color=f"C{1 - place}", alpha=0.2)
    grey = [value for record in records for value in record["grey"]]
    if grey:
        panel.axhline(float(np.median(grey)), color="grey", linestyle=":", label="uniform grey")
    panel.axhline(RECOGNISABLE, color="grey", linewidth=0.8)
    panel.set(xscale="log", xlabel="round attacked", ylabel="dB")
    panel.xaxis.set_major_formatter("{x:g}")
    panel.minorticks_off()


def _selectors(records: Sequence[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(record["selector"] for record in records))


def _known(values: Sequence[float | None]) -> float | None:
    found = [value for value in values if value is not None]
    return mean(found) if found else None


def _shown(found: Mean, form: str) -> str:
    if found.value is None:
        return NONE
    interval = "" if found.low is None or found.high is None else f" [{found.low:{form}}, {found.high:{form}}]"
    return f"{found.value:{form}}{interval}"
