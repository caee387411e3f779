"""Tables of the reproduction of ``dmcmc``, and what follows from them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from statistics import fmean
from typing import Any

Record = dict[str, Any]

WAYS = {
    "ddpm": "DDPM",
    "dmcmc-ddpm": "chain, DDPM",
    "ddim": "DDIM",
    "dmcmc-ddim": "chain, DDIM",
    "heun": "Heun",
    "dmcmc-heun": "chain, Heun",
    "heun-churn": "Heun with churn",
    "dmcmc-heun-churn": "chain, Heun with churn",
}
"""What the page calls each way to draw, in its order: without the chain, then with it."""

HEAD = """# Few calls of a network, with a Markov chain and without

Made by `make reproduce-dmcmc` (`python -m experiments.reproduce.dmcmc`), on one thread of a CPU. The model is the
moving average after {rounds:,} rounds of {clients} clients on Fashion-MNIST
(`experiments/configs/federated-diffusion.toml`; {steps:,} steps of the cosine schedule). {images:,} images of each
way to draw are compared with as many test images on features of a small classifier
([architecture](../architecture.md#what-clients-train)): the Frechet distance is no FID, and other test images are
at {frechet_distance:.2f} of these, with precision {precision:.2f} and recall {recall:.2f}. How the samplers work,
and how to use them: [sampling](../sampling.md).

`dmcmc` (Kim and Ye 2023, arXiv:2209.14593) moves chains over images and noise levels and denoises what they visit:
DDPM, DDIM or Heun's method start at the low level of a chain rather than at pure noise. **Calls** are those of the
network an image, counted: `n_skip` steps of the chain, the integrator, one last denoising. What a chain takes
before its first image (20 levels of Heun's method with churn, 20 steps) is told apart, as **warm-up**: calls a
chain. It is shared by all images of a chain; the authors' 50,000 images come of 200 chains, 250 each.

Levels are those of images in [-1, 1]: {levels:,} of them from {highest:.0f} to 0.02, as the schedule's last ones,
up to 20,291, say no more than {highest:.0f} does and cost single precision its digits. The classifier of levels has
learned for {training:,} steps on {own_images:,} images that the server has of its own, no client's: its
cross-entropy on test images is {classifier_loss:.2f} nats, of a guess 6.91. Estimates of images are kept in [-1, 1]
everywhere. DDPM and DDIM without the chain take steps spread evenly from the schedule's last one on{spacing};
Heun's method, and all integrators after a chain, levels whose seventh roots are. Chains have a step size of
{step_size}: the best at ten calls of those tried on the server's own images (below). 0.2 had been set beforehand, and
has tables of its own. Five images a chain were set beforehand."""


def of_step_size(records: Sequence[Record], step_size: float) -> list[Record]:
    """Records against test images: those without a chain, and those of chains with that step size."""
    test = [r for r in records if r["cell"] and r["cell"]["judge"] == "test"]
    return [r for r in test if not r["cell"]["chain"] or r["cell"]["step_size"] == step_size]


def page(records: Sequence[Record], step_size: float) -> str:
    """The whole page, in Markdown.

    Args:
        records: those that there are.
        step_size: of the chains that are compared with the ways without; others have a table of their own.
    """
    told = next((r for r in records if r["cell"] is None), None)
    if told is None:
        return "# Few calls of a network, with a Markov chain and without\n\nNothing has been measured yet.\n"
    test = of_step_size(records, step_size)
    others = [r for r in records if r["cell"] and r["cell"]["judge"] == "test" and r not in test]
    tried = [r for r in records if r["cell"] and r["cell"]["judge"] == "validation"]
    spacing = "" if not test or test[0]["cell"]["spacing"] == "trailing" else " to step 0"
    parts = [
        HEAD.format(**told, spacing=spacing, step_size=step_size),
        "![Frechet distance, precision and recall against calls of the network](dmcmc.png)",
        "## What follows",
        "A way wins or loses where every seed of the one is better than every seed of the other; with few seeds that "
        "is weak evidence for small differences.",
        "\n".join(f"- {line}" for line in statements(test)),
        "## Against the number of calls",
        "Means over seeds of all noise, with the lowest and highest where there are several. Seconds are by the clock, "
        "of all images without and with the warm-up, on a machine that did other work as well.",
        *(_table([r for r in test if r["cell"]["calls"] == budget]) for budget in _budgets(test)),
        "![Rows of samples](images/dmcmc.png)",
        "The first images at 10 calls (Heun without a chain: 9), none chosen: the same noise begins all rows without a "
        "chain; of those with one, each image is the first of another chain.",
        *_other_steps(others),
        "## Settings",
        "At 10 calls, one seed, against the server's own images; the chain has Heun's method. *Likeness* is how far an "
        "image is from the one before it of its chain, over how far from images of other chains, in pixels: 1 would be "
        "independent. *Level* is the median of where the chains ended. Where images of a chain are near copies, recall "
        "counts few real images as reached, as the balls around drawn ones go to their third neighbours.",
        _settings(tried),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _other_steps(records: Sequence[Record]) -> Iterable[str]:
    """A section of chains with other step sizes, if there are any."""
    for step_size in sorted({r["cell"]["step_size"] for r in records}):
        own = [r for r in records if r["cell"]["step_size"] == step_size]
        yield f"## With a step size of {step_size}"
        yield from (_table([r for r in own if r["cell"]["calls"] == budget]) for budget in _budgets(own))


def name(record: Record) -> str:
    """The way to draw of a record, one of ``WAYS``."""
    cell = record["cell"]
    integrator: str = cell["integrator"]
    return ("dmcmc-" if cell["chain"] else "") + integrator + ("-churn" if cell["churn"] else "")


def statements(records: Sequence[Record]) -> list[str]:
    """Where the chain wins and where it does not, as the numbers have it: sentences."""
    lines = []
    for budget in _budgets(records):
        own = [r for r in records if r["cell"]["calls"] == budget]
        pairs = [(w, f"dmcmc-{w}") for w in WAYS if f"dmcmc-{w}" in WAYS]
        for measure, better in (("frechet_distance", min), ("recall", max)):
            found = [_compared(own, plain, chained, measure, better) for plain, chained in pairs]
            if told := [one for one in found if one]:
                lines.append(f"{budget} calls, {_title(measure)}: {'; '.join(told)}.")
    return lines + list(_with_warm_up(records))


def _compared(
    records: Sequence[Record], plain: str, chained: str, measure: str, better: Callable[[Iterable[float]], float]
) -> str:
    without, with_chain = ([r[measure] for r in records if name(r) == way] for way in (plain, chained))
    if not without or not with_chain:
        return ""
    figures = f"{fmean(with_chain):.2f} with the chain, {fmean(without):.2f} without"
    if min(len(without), len(with_chain)) < 2:
        verdict = "one seed"
    elif max(without) < min(with_chain) or max(with_chain) < min(without):
        verdict = "the chain wins" if better(with_chain + without) in with_chain else "the chain loses"
    else:
        verdict = "not told apart"
    return f"{WAYS[plain]} {figures} ({verdict})"


def _with_warm_up(records: Sequence[Record]) -> Iterable[str]:
    """The best way with a chain, all its calls counted, against the best without that takes no more."""
    for budget in _budgets(records):
        chained = _means([r for r in records if r["cell"]["chain"] and r["cell"]["calls"] == budget])
        if not chained:
            continue
        best = min(chained, key=lambda way: chained[way])
        own = next(r for r in records if name(r) == best and r["cell"]["calls"] == budget)
        outputs = own["cell"]["outputs"]
        total = own["calls"] + own["warm_up_calls"] / outputs
        within = [r for r in records if not r["cell"]["chain"] and r["calls"] <= total]
        choices = {(way, r["calls"]): 0.0 for r in within for way in [name(r)]}
        for way, count in choices:
            choices[way, count] = fmean(r["frechet_distance"] for r in within if (name(r), r["calls"]) == (way, count))
        if choices:
            way, count = min(choices, key=lambda key: choices[key])
            wins = "closer" if chained[best] < choices[way, count] else "not closer"
            yield (
                f"With the warm-up counted, over {outputs} images a chain, {WAYS[best]} at {budget} calls takes "
                f"{total:.1f} an image and is {wins} than the best without a chain that takes no more: "
                f"{chained[best]:.2f} against {choices[way, count]:.2f} ({WAYS[way]}, {count} calls)."
            )


def _means(records: Sequence[Record]) -> dict[str, float]:
    ways = dict.fromkeys(map(name, records))
    return {way: fmean(r["frechet_distance"] for r in records if name(r) == way) for way in ways}


def _budgets(records: Sequence[Record]) -> list[int]:
    return sorted({r["cell"]["calls"] for r in records})


def _table(records: Sequence[Record]) -> str:
    rows = [
        "| way | calls | warm-up | seeds | Frechet distance | precision | recall | seconds | with warm-up |",
        "|" + " --- |" * 9,
    ]
    for way, title in WAYS.items():
        own = [r for r in records if name(r) == way]
        if own:
            measures = (_spread([r[m] for r in own]) for m in ("frechet_distance", "precision", "recall"))
            seconds, first = fmean(r["seconds"] for r in own), own[0]
            rows.append(
                f"| {title} | {first['calls']} | {first['warm_up_calls'] or '-'} | {len(own)} | {' | '.join(measures)} "
                f"| {seconds:.0f} | {seconds + fmean(r['warm_up_seconds'] for r in own):.0f} |"
            )
    return "\n".join(rows)


def _settings(records: Sequence[Record]) -> str:
    rows = [
        "| way | eta | images a chain | state | level by | steps | Frechet distance | precision | recall | likeness "
        "| level |",
        "|" + " --- |" * 11,
    ]
    for r in records:
        cell = r["cell"]
        chain = (
            f"{cell['step_size']} | {cell['outputs']} | {'lowest' if cell['keep_lowest'] else 'last'} "
            f"| {'argmax' if cell['likeliest'] else 'draw'} | -"
            if cell["chain"]
            else f"- | - | - | - | {'to 0' if cell['spacing'] == 'ends' else 'without 0'}"
        )
        rows.append(
            f"| {WAYS[name(r)]} | {chain} | {r['frechet_distance']:.2f} | {r['precision']:.3f} | {r['recall']:.3f} "
            f"| {_number(r['likeness'])} | {_number(r['level'])} |"
        )
    return "\n".join(rows) if records else ""


def _spread(values: Sequence[float]) -> str:
    digits = 2 if max(values) > 1 else 3
    middle = f"{fmean(values):.{digits}f}"
    return middle if len(values) < 2 else f"{middle} [{min(values):.{digits}f}, {max(values):.{digits}f}]"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _title(measure: str) -> str:
    return measure.replace("frechet_distance", "Frechet distance")
