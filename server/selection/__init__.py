"""Who trains in a round: selectors by name, and the strategy wrapper that applies them."""

from __future__ import annotations

from server.selection.by_examples import ByExamples
from server.selection.selective import Selection, Selective, profiles
from server.selection.selector import SELECTORS, RoundOutcome, Selector, draw
from server.selection.uniform import Uniform

__all__ = [
    "SELECTORS",
    "ByExamples",
    "RoundOutcome",
    "Selection",
    "Selective",
    "Selector",
    "Uniform",
    "draw",
    "profiles",
]
