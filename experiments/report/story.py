"""What a run's numbers say, in plain words: the headline, its figures, and the median victims."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from experiments.report.records import Run, Victim, integer, middle

NEARLY_EXACT = 30.0
"""PSNR in decibels from which a reconstruction looks like its original."""

RECOGNISABLE = 20.0
"""PSNR in decibels from which a reconstruction counts as recovered (Dimitrov et al. 2022, on FEMNIST)."""

MISSING = "\N{EN DASH}"
"""What stands where nothing was measured."""

SPACE = "\N{NO-BREAK SPACE}"
"""Between a number and its unit."""

_FLAT_MARGIN = 2.0  # decibels above a flat picture that are not yet a trace of anything
_FILM = 4


@dataclass(frozen=True)
class Tile:
    """A number worth reading first."""

    value: str
    unit: str
    label: str


@dataclass(frozen=True)
class Row:
    """One attack in one round, over all its victims."""

    round: int
    attack: str
    victims: int
    failed: int
    psnr: float
    lowest: float
    highest: float
    ssim: float | None
    lpips: float | None
    label_accuracy: float | None
    recovered: float
    baseline: float | None
    flat: float | None
    verdict: str


@dataclass(frozen=True)
class Film:
    """The median victims of one attack, round by round."""

    attack: str
    frames: list[Victim]


def decibels(value: float | None) -> str:
    """A PSNR for reading."""
    return MISSING if value is None else f"{value:.1f}"


def percent(value: float | None) -> str:
    """A share for reading."""
    return MISSING if value is None else f"{100 * value:.0f}{SPACE}%"


def finer_percent(value: float) -> str:
    """A share for reading where tenths matter."""
    return f"{100 * value:.1f}{SPACE}%"


def recovered(victim: Victim) -> bool:
    """Whether a reconstruction is recognisable, whole, and better than a uniform grey.

    An attack that gave nothing is scored as the grey guess, which alone reaches ``RECOGNISABLE`` on dull pictures.
    """
    return not victim.failed and victim.counted >= RECOGNISABLE and victim.counted > (victim.baseline_psnr or 0.0)


def verdict(psnr: float, flat: float | None) -> str:
    """What a PSNR means for the eye.

    Args:
        psnr: decibels.
        flat: what a flat picture of the right colour scores; below that nothing was recovered.

    >>> verdict(34.0, 9.0), verdict(24.0, 9.0), verdict(13.0, 9.0), verdict(9.2, 9.0)
    ('nearly exact', 'recognisable', 'blurred traces', 'no better than a flat picture')
    """
    if flat is not None and psnr <= flat + _FLAT_MARGIN:
        return "no better than a flat picture"
    if psnr >= NEARLY_EXACT:
        return "nearly exact"
    return "recognisable" if psnr >= RECOGNISABLE else "blurred traces"


def verdict_on(victims: Sequence[Victim]) -> str:
    """What the median PSNR of some victims means."""
    if all(victim.psnr is None for victim in victims):
        return "not delivered at all"
    flat = middle([v.mean_colour_psnr for v in victims if v.mean_colour_psnr is not None])
    grey = middle([v.baseline_psnr for v in victims if v.baseline_psnr is not None])
    return verdict(middle([v.counted for v in victims]) or 0.0, flat if flat is not None else grey)


def title(run: Run) -> str:
    """The run's name."""
    return str(run.experiment.get("name") or run.fallback_name)


def subtitle(run: Run) -> list[str]:
    """What was run, in a few words each."""
    data, model, training = run.table("data"), run.table("model"), run.table("training")
    clients = integer(data, "clients")
    words = [
        _algorithm(run),
        str(run.table("task").get("name") or "") or None,
        f"{model['name']} on {data['name']}" if "name" in model and "name" in data else None,
        f"{clients} clients" if clients else None,
        _count(integer(training, "rounds"), "round"),
        f"seed {run.experiment['seed']}" if "seed" in run.experiment else None,
    ]
    return [word for word in words if word]


def headline(run: Run) -> list[str]:
    """The story in a few sentences."""
    leaks = [_leaking(run.of(attack)) for attack in run.attacks]
    paragraphs = [_learning(run), _listening(run), *leaks[:-1], " ".join([*leaks[-1:], _guessing(run)])]
    return [paragraph for paragraph in paragraphs if paragraph.strip()]


def tiles(run: Run) -> list[Tile]:
    """The numbers of the story."""
    found = []
    accuracy = run.series("test_accuracy")
    if accuracy:
        (first, start), (last, end) = accuracy[0], accuracy[-1]
        came = f", from {percent(start)} in round {first}" if last != first else ""
        found.append(Tile(f"{100 * end:.1f}", "%", f"test accuracy in round {last}{came}"))
    elif loss := run.series("test_loss"):
        (first, start), (last, end) = loss[0], loss[-1]
        came = f", from {start:.3f} in round {first}" if last != first else ""
        found.append(Tile(f"{end:.3f}", "", f"loss on held-out images in round {last}{came}"))
    if not run.victims:
        return found
    rounds = run.attacked_rounds
    found.append(Tile(str(len(run.victims)), "", f"victims attacked in {_count(len(rounds), 'round')}"))
    for when in dict.fromkeys((rounds[0], rounds[-1])):
        best = max((row for row in rows(run) if row.round == when), key=lambda row: row.psnr)
        by = f" by {best.attack}, the strongest attack" if len(run.attacks) > 1 else ""
        found.append(Tile(decibels(best.psnr), "dB", f"median PSNR in round {when}{by}: {best.verdict}"))
    greys = [v.baseline_psnr for v in run.victims if v.baseline_psnr is not None]
    if greys:
        found.append(Tile(decibels(middle(greys)), "dB", "what a uniform grey guess scores"))
    return found


def rows(run: Run) -> list[Row]:
    """Each attack in each round it struck."""
    struck = ((attack, when) for when in run.attacked_rounds for attack in run.attacks)
    return [_row(victims) for attack, when in struck if (victims := run.of(attack, when))]


def films(run: Run) -> list[Film]:
    """For each attack the victim of median PSNR in its first rounds, its last, and some between."""
    found = []
    for attack in run.attacks:
        frames = []
        for when in spread(sorted({victim.round for victim in run.of(attack)}), _FILM):
            pictured = [victim for victim in run.of(attack, when) if run.picture(victim)]
            ranked = sorted(pictured, key=lambda victim: (victim.counted, victim.client))
            frames += ranked[(len(ranked) - 1) // 2 :][:1]
        if frames:
            found.append(Film(attack, frames))
    return found


def spread(items: Sequence[int], count: int) -> list[int]:
    """At most ``count`` of the items, evenly spaced, the first and the last among them.

    >>> spread([1, 2, 3, 4, 5, 6, 7], 3)
    [1, 4, 7]
    """
    if len(items) <= count:
        return list(items)
    return [items[round(i * (len(items) - 1) / (count - 1))] for i in range(count)]


def _row(victims: list[Victim]) -> Row:
    counted = [victim.counted for victim in victims]
    return Row(
        round=victims[0].round,
        attack=victims[0].attack,
        victims=len(victims),
        failed=sum(victim.failed for victim in victims),
        psnr=median(counted),
        lowest=min(counted),
        highest=max(counted),
        ssim=middle([v.ssim for v in victims if v.ssim is not None]),
        lpips=middle([v.lpips for v in victims if v.lpips is not None]),
        label_accuracy=middle([v.label_accuracy for v in victims if v.label_accuracy is not None]),
        recovered=sum(map(recovered, victims)) / len(victims),
        baseline=middle([v.baseline_psnr for v in victims if v.baseline_psnr is not None]),
        flat=middle([v.mean_colour_psnr for v in victims if v.mean_colour_psnr is not None]),
        verdict=verdict_on(victims),
    )


def _learning(run: Run) -> str:
    clients = integer(run.table("data"), "clients") or len({record.get("client") for record in run.clients})
    model, data = run.table("model").get("name"), run.table("data").get("name")
    who = _count(clients, "client") or "The clients"
    what = f" a {model} on {data}" if model and data else " a model"
    rounds = max((integer(record, "round") or 0 for record in run.metrics), default=0)
    told = (
        f"{who} trained{what} together for {_count(rounds, 'round')}."
        if rounds
        else f"{who} have trained no round yet."
    )
    accuracy = run.series("test_accuracy")
    if not accuracy:
        return f"{told}{_losing(run)}"
    (first, start), (last, end) = accuracy[0], accuracy[-1]
    if first == last:
        return f"{told} Test accuracy is {finer_percent(end)}."
    return f"{told} Test accuracy went from {finer_percent(start)} to {finer_percent(end)}."


def _losing(run: Run) -> str:
    """How the loss went, where there is no accuracy to tell."""
    loss = run.series("test_loss")
    if not loss:
        return ""
    start, end = loss[0][1], loss[-1][1]
    if len(loss) == 1:
        return f" Loss on held-out images is {end:.3f}."
    return f" Loss on held-out images went from {start:.3f} to {end:.3f}.{_drawing(run)}"


def _drawing(run: Run) -> str:
    """How far what the global model draws is from held-out images, where that was judged."""
    distance = run.series("test_frechet_distance")
    if len(distance) < 2:
        return ""
    (first, start), (last, end) = distance[0], distance[-1]
    return (
        f" The Frechet distance of its drawings from held-out images, on features of a small classifier, went from "
        f"{start:.3g} in round {first} to {end:.3g} in round {last}."
    )


def _listening(run: Run) -> str:
    if not run.victims:
        return "The server attacked nobody."
    clients = len({victim.client for victim in run.victims})
    images = sum(victim.examples for victim in run.victims)
    return (
        f"Meanwhile the server, honest but curious, tried to rebuild {_count(images, 'training image')} of "
        f"{_count(clients, 'client')} from {_count(len(run.victims), 'update')} that it had received anyway."
    )


def _leaking(victims: list[Victim]) -> str:
    rounds = sorted({victim.round for victim in victims})
    told: list[str] = []
    before = ""
    for when in dict.fromkeys((rounds[0], rounds[-1])):
        those = [victim for victim in victims if victim.round == when]
        words = verdict_on(those)
        shown = "still so" if words == before else words
        told.append(f"{shown} in round {when} (median {decibels(middle([v.counted for v in those]))}{SPACE}dB)")
        before = words
    return f"By {victims[0].attack}, its reconstructions were {', and '.join(told)}."


def _guessing(run: Run) -> str:
    greys = [v.baseline_psnr for v in run.victims if v.baseline_psnr is not None]
    return f"A uniform grey, guessed without any attack, scores {decibels(middle(greys))}{SPACE}dB." if greys else ""


def _algorithm(run: Run) -> str | None:
    name = run.table("training").get("algorithm")
    return {"fedavg": "FedAvg", "fedsgd": "FedSGD"}.get(str(name), str(name)) if name else None


def _count(number: int | None, noun: str) -> str | None:
    if not number:
        return None
    return f"{number:,} {noun}{'' if number == 1 else 's'}".replace(",", "\u202f")
