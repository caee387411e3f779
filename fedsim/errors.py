"""The one kind of error that is meant for users: it says what is wrong, where, and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class FedsimError(Exception):
    """Something the user can mend. The command line prints it without a traceback and exits with 2."""


def invalid(field: str, value: object, problem: str, remedy: str) -> FedsimError:
    """An error that names the field, its value, what is wrong with it and the remedy."""
    return FedsimError(f"{field} = {value!r}: {problem}. {remedy}.")


def nearest(word: str, known: Iterable[str]) -> str:
    """A hint at the known word closest to a mistyped one, or the list of what is known."""
    words = sorted(known)
    close = difflib.get_close_matches(word, words, n=1, cutoff=0.5)
    if close:
        return f"Did you mean {close[0]!r}?"
    return f"Known: {', '.join(words) or 'nothing'}"


def unknown(kind: str, word: str, known: Iterable[str]) -> FedsimError:
    """An error for a name that nothing is registered under; it suggests the nearest known one."""
    return FedsimError(f"{kind} {word!r} is not known. {nearest(word, known)}")
