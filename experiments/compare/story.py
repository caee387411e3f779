"""What a comparison answers, in plain words: which configuration to use."""

from __future__ import annotations

from collections.abc import Sequence

from experiments.compare.records import Comparison
from experiments.compare.tables import accuracy, chance, percent

ALPHA = 0.05
"""Differences of a smaller p-value, corrected by Holm, count as shown."""


def answer(comparison: Comparison) -> list[str]:
    """Sentences, of which the first says which to use."""
    return [_which(comparison), *_failed(comparison)]


def _which(comparison: Comparison) -> str:
    found = comparison.summaries
    ranked = sorted(
        (place for place, one in enumerate(found) if one.final.value is not None),
        key=lambda place: -(found[place].final.value or 0.0),
    )
    if not ranked:
        return "There is no answer: no run came to its end with a test accuracy."
    leader = ranked[0]
    name, reaches = found[leader].label, f"test accuracy {accuracy(found[leader].final)}"
    if len(found) == 1:
        return f"There is nothing to choose from: only {name}, {reaches}."
    untested = len(ranked) < 2 or all(pair.accuracy.p is None for pair in comparison.pairs)
    if untested:
        return (
            f"Not decided: {name} has the highest {reaches}, but too few runs finished to rule out chance. Add seeds "
            "with --seeds 5 --resume."
        )
    rivals = [place for place in ranked[1:] if not _better(comparison, leader, place)]
    if not rivals:
        worst = max(comparison.pair(leader, place)[0].accuracy.p_holm or 0.0 for place in ranked[1:])
        return f"Use {name}: its {reaches} is higher than that of {_others(len(ranked) - 1)} (p {_p(worst)})."
    return _by_speed(comparison, leader, [leader, *rivals])


def _by_speed(comparison: Comparison, leader: int, among: Sequence[int]) -> str:
    """Of configurations whose accuracies cannot be told apart, the one that gets there first."""
    found = comparison.summaries
    labels = _listed([found[place].label for place in among])
    seen = [place for place in among if found[place].rounds.median is not None]
    if comparison.target is not None and seen:
        fastest = min(seen, key=lambda place: found[place].rounds.median or 0.0)
        chances = [comparison.pair(fastest, place)[0].speed_holm for place in among if place != fastest]
        known = [one for one in chances if one is not None]
        if len(known) == len(chances) and max(known) < ALPHA:
            return (
                f"Use {found[fastest].label}: the final accuracies of {labels} cannot be told apart, but it reaches "
                f"{percent(comparison.target)} first, after {found[fastest].rounds.median:g} rounds in the median "
                f"(p {_p(max(known))})."
            )
    seeds = max(len(summary.runs) for summary in found)
    return (
        f"Not decided: {labels} cannot be told apart over {seeds} seeds; {found[leader].label} has the highest test "
        f"accuracy, {accuracy(found[leader].final)}."
    )


def _better(comparison: Comparison, one: int, other: int) -> bool:
    pair, sign = comparison.pair(one, other)
    p, difference = pair.accuracy.p_holm, pair.accuracy.difference
    return p is not None and difference is not None and p < ALPHA and sign * difference > 0


def _failed(comparison: Comparison) -> list[str]:
    number = len(comparison.failures)
    if not number:
        return []
    labels = _listed(list(dict.fromkeys(label for label, _ in comparison.failures)))
    total = sum(len(summary.runs) for summary in comparison.summaries)
    return [f"{number} of {total} runs failed ({labels}); the mean accuracies are without them."]


def _others(number: int) -> str:
    return "the other" if number == 1 else f"each of the {number} others"


def _p(value: float) -> str:
    return chance(value) if value < 0.001 else f"= {chance(value)}"


def _listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
