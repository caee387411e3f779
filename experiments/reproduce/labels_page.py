"""Tables and figures of the accuracy of label recovery."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy import stats

Record = dict[str, Any]

SHOWN = ("class_features", "counts", "rlu", "ilrg", "llg", "bias_corrected", "yin", "uniform")
"""Rules in the figures; the tables have all."""
PRESENCE = ("analytic", "rlg", "yin", "ggl", "counts", "class_features", "uniform")

HEAD = """# Label recovery

Made by `make reproduce-labels` (`python -m experiments.reproduce.labels`), on one thread of a CPU. CIFAR-10;
{victims} victims a cell, each with class proportions drawn from Dirichlet(0.5), so that labels repeat and classes are
absent, and with its own test images; `cnn`, `lenet`, and `convnet` at a width of 32, in training mode (batch norm by
the batch's own statistics, which the adversary lacks). *Training* is the number of Adam steps (learning rate 1e-3,
batches of 64 training images) before the round attacked; two networks a model, by turns. A *gradient* is one step
over all examples; a *FedAvg* client has 32 examples in mini-batches of 8, or 128 in mini-batches of 32, and takes SGD
steps at a learning rate of 0.01. Accuracy is the share of the labels in the multiset that are right, `sum_c min(n_c,
found_c) / N`; `uniform` guesses every class as often, and is what a rule has to beat. Intervals are 95 % (Student's
t, over victims). What each rule is and assumes stands in its docstring, `adversary/labels/`. No rule was given
images, labels or outputs of the victim; `given` and `optimised` recover nothing and are left out."""


READING = """Read off the run with 20 victims a cell, whose random draws are fixed.

- **One example**: every rule that applies is always right, except `counts_bias` and `dimitrov` after 1,000 steps of
  training (92 and 93 %): they estimate outputs on noise and use no sign.
- **One gradient of many examples**: `class_features` has the highest mean over batch sizes, or one not told apart from
  the highest, for each model and training. On fresh networks `counts` is as good (98 to 100 %). After 1,000 steps
  `counts` falls to 68 % at 128 examples, `class_features` to 82 %: what a trained network says to noise tells little of
  what it says to images, and what it says to features read off the gradient tells more. Worst is
  `cnn` after 1,000 steps, where `counts`, `counts_bias`, `dimitrov` and `llg_star` come down to guessing (48 to 53 %
  from 32 examples on). `rlu`, with counts that are not negative, is in no cell worse than `ilrg`, which solves the
  same equations.
- **Rules that know a class only once** (`yin`, `ggl`, and `rlg` from 8 examples on) are little better than
  `uniform` from 8 examples on. `llg`, `bias_corrected` and `analytic` go from 100 % at one example to 69 to 77 % at
  128: classes with a share below their mean output have positive entries and are not seen.
- **Many local steps**: with a few epochs `class_features` leads. It assumes features that stay as they are; with 8
  epochs on a network that has learned, `llg`, which has no model of the training, leads (77 to 81 % against
  68 to 80 %). On fresh `lenet`, whose weights up to 0.5 make steps large, every rule fails: from 79 to 82 % at one
  epoch to 60 % or less at 8, little above `uniform`. `ilrg` takes the weights sent for all steps and ends at or
  below `uniform` at 8 epochs on trained networks; `rlu` follows the path and loses less. `dimitrov` and `llg_star`
  agree within two points from 16 examples on: both are the same estimate, rounded in two ways.
- **Which classes are there**: `rlg` finds them for up to 4 examples as well as `analytic`; from 8 on,
  the rank is that of all classes and it names them all. `class_features` is best throughout (85 to 100 %).

`class_features` has two constants, a ridge of 1e-3 and 10 iterations, chosen on other draws of test images for
networks of the same models; accuracy hardly moved between ridges of 1e-4 and 1e-3 and between 5 and 20 iterations.
Not measured: LLG+ and RLU as published, which need auxiliary samples of each class."""


@dataclass(frozen=True)
class Setting:
    """A kind of update, whose cells differ in one number.

    Attributes:
        title: for headings.
        axis: name of that number.
        of: whether a record belongs.
        value: the number.
    """

    title: str
    axis: str
    of: Callable[[Record], bool]
    value: Callable[[Record], int]


SETTINGS = (
    Setting("one gradient", "examples", lambda r: r["epochs"] == 0, lambda r: int(r["examples"])),
    Setting(
        "FedAvg, 32 examples",
        "local epochs",
        lambda r: r["epochs"] > 0 and r["examples"] == 32,
        lambda r: int(r["epochs"]),
    ),
    Setting(
        "FedAvg, 128 examples",
        "local epochs",
        lambda r: r["epochs"] > 0 and r["examples"] == 128,
        lambda r: int(r["epochs"]),
    ),
)


def write_page(records: Sequence[Record], folder: Path, reading: str = "") -> None:
    """Write ``labels.md`` and its figures into a folder.

    Args:
        records: of the cells.
        folder: of the results.
        reading: what the committed figures show, in words.
    """
    text = [HEAD.format(victims=records[0]["victims"])]
    text += ["## What it shows", reading] if reading else []
    text += ["## Best rule", _best(records)]
    for number, setting in enumerate(SETTINGS):
        own = [record for record in records if setting.of(record)]
        if number != 1:  # 32 and 128 examples look alike
            (folder / "images").mkdir(exist_ok=True)
            name = f"images/labels-{number}.png"
            _figure(own, setting).savefig(folder / name, dpi=110)
            text += [f"![{setting.title}: accuracy over {setting.axis}]({name})"]
        for training in _values(own, "training"):
            cells = [record for record in own if record["training"] == training]
            text += [f"### {setting.title}, after {training} steps of training: accuracy in %, mean over models"]
            text += [_table(cells, setting)]
    gradients = [record for record in records if SETTINGS[0].of(record)]
    text += [
        "### Which classes are there: one gradient, classes in both over classes in either, in %",
        _table(gradients, SETTINGS[0], PRESENCE, what="present"),
    ]
    (folder / "labels.md").write_text("\n\n".join(text) + "\n")


def _scores(records: Sequence[Record], rule: str, what: str = "right") -> NDArray[np.float64]:
    """Of all victims in the records, in [0, 1]; empty where the rule does not apply."""
    parts = [
        np.array(record[what].get(rule, []), dtype=float) / (record["examples"] if what == "right" else 1)
        for record in records
    ]
    return np.concatenate(parts) if parts else np.array([])


def _interval(scores: NDArray[np.float64]) -> float:
    """Half the width of the 95 % interval of the mean."""
    return float(stats.t.ppf(0.975, len(scores) - 1) * scores.std(ddof=1) / np.sqrt(len(scores)))


def _table(records: Sequence[Record], setting: Setting, rules: Sequence[str] | None = None, what: str = "right") -> str:
    values = sorted({setting.value(record) for record in records})
    cells = {value: [record for record in records if setting.value(record) == value] for value in values}
    rules = rules or list(dict.fromkeys(rule for record in records for rule in record["right"] if rule != "uniform"))
    rules = [*(rule for rule in rules if rule != "uniform"), "uniform"]
    found = {(rule, value): _scores(cells[value], rule, what) for rule in rules for value in values}
    top = {value: max(s.mean() for (_, v), s in found.items() if v == value and len(s)) for value in values}
    rows = []
    for rule in rules:
        row = []
        for value in values:
            scores = found[rule, value]
            if not len(scores):
                row.append("")
                continue
            entry = f"{100 * scores.mean():.0f} ± {100 * _interval(scores):.0f}"
            row.append(f"**{entry}**" if scores.mean() >= top[value] else entry)
        rows.append(f"| {rule} | " + " | ".join(row) + " |")
    head = f"| {setting.axis} | " + " | ".join(map(str, values)) + " |"
    return "\n".join([head, "|" + " --- |" * (len(values) + 1), *rows])


def _best(records: Sequence[Record]) -> str:
    """The best mean over sizes or epochs of each model, and the rules that are not told apart from it."""
    rows = []
    for setting in SETTINGS:
        for training in _values(records, "training"):
            for model in _values(records, "model"):
                own = [r for r in records if setting.of(r) and (r["training"], r["model"]) == (training, model)]
                if not own:
                    continue
                rules = {r: _scores(own, r) for r in own[-1]["right"]}
                best = max(rules, key=lambda rule: float(rules[rule].mean()))
                near = [r for r, s in rules.items() if r != best and _not_told_apart(rules[best], s)]
                mean = f"{100 * rules[best].mean():.0f} ± {100 * _interval(rules[best]):.0f}"
                others = " | ".join(f"{100 * rules[rule].mean():.0f}" for rule in ("counts", "uniform"))
                left = f"| {setting.title} | {training} | {model} | {best} | {mean} |"
                rows.append(f"{left} {', '.join(near) or '-'} | {others} |")
    head = "| update | training | model | best rule | accuracy, % | not told apart from it | counts | uniform |"
    note = (
        "Mean over all sizes or epochs. *Not told apart*: the 95 % interval of the difference, victim by victim, "
        "contains 0."
    )
    return note + "\n\n" + "\n".join([head, "|" + " --- |" * 8, *rows])


def _not_told_apart(one: NDArray[np.float64], other: NDArray[np.float64]) -> bool:
    difference = one - other
    return bool(difference.mean() <= _interval(difference))


def _figure(records: Sequence[Record], setting: Setting) -> Figure:
    models, trainings = _values(records, "model"), _values(records, "training")
    figure = Figure(figsize=(11, 8), layout="constrained")
    axes = figure.subplots(len(models), len(trainings), sharex=True, sharey=True, squeeze=False)
    for axis, (model, training) in zip(axes.flat, [(m, t) for m in models for t in trainings], strict=True):
        own = [record for record in records if (record["model"], record["training"]) == (model, training)]
        values = sorted({setting.value(record) for record in own})
        for rule in SHOWN:
            scores = [_scores([r for r in own if setting.value(r) == value], rule) for value in values]
            mean = np.array([s.mean() for s in scores])
            half = np.array([_interval(s) for s in scores])
            style = {"color": "grey", "linestyle": "--"} if rule == "uniform" else {}
            (line,) = axis.plot(values, 100 * mean, label=rule, marker=".", **style)
            axis.fill_between(values, 100 * (mean - half), 100 * (mean + half), color=line.get_color(), alpha=0.12)
        axis.set_title(f"{model}, {training} steps of training", fontsize=9)
        axis.set_xscale("log", base=2)
        axis.set_xticks(values, [str(value) for value in values])
        axis.set_ylim(0, 103)
        axis.grid(alpha=0.3)
    for axis in axes[-1]:
        axis.set_xlabel(setting.axis)
    figure.supylabel("labels right, %")
    figure.suptitle(f"Label recovery: {setting.title}")
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=len(SHOWN), fontsize=8)
    return figure


def _values(records: Sequence[Record], field: str) -> list[Any]:
    return list(dict.fromkeys(record[field] for record in records))
