"""Who trains in a round: selectors by name, and the strategy wrapper that applies them."""

from __future__ import annotations

from server.selection.afl import ActiveFL
from server.selection.asking import profiles
from server.selection.by_examples import ByExamples
from server.selection.fedemd import FedEMD
from server.selection.fedfast import FedFast
from server.selection.greedyfed import GreedyFed
from server.selection.oort import Oort
from server.selection.power_of_choice import PowerOfChoice
from server.selection.s_fedavg import SFedAvg
from server.selection.selective import Selection, Selective
from server.selection.selector import (
    SELECTORS,
    Answer,
    Choice,
    Choosing,
    Contribution,
    Need,
    Pool,
    RoundOutcome,
    Selector,
    choose,
    draw,
)
from server.selection.shapley import ShapleyBased
from server.selection.tifl import TiFL
from server.selection.uniform import Uniform

__all__ = [
    "SELECTORS",
    "ActiveFL",
    "Answer",
    "ByExamples",
    "Choice",
    "Choosing",
    "Contribution",
    "FedEMD",
    "FedFast",
    "GreedyFed",
    "Need",
    "Oort",
    "Pool",
    "PowerOfChoice",
    "RoundOutcome",
    "SFedAvg",
    "Selection",
    "Selective",
    "Selector",
    "ShapleyBased",
    "TiFL",
    "Uniform",
    "choose",
    "draw",
    "profiles",
]
