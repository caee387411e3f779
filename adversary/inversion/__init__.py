"""Gradient inversion by optimisation, put together from parts; a published attack names its parts."""

from adversary.inversion.distance import Cosine, Distance, Euclidean, LayerWise, Weighted
from adversary.inversion.inversion import Inversion
from adversary.inversion.optimiser import LBFGS, Adam, Optimiser, SignAdam
from adversary.inversion.prior import Prior, TotalVariation, total_variation
from adversary.inversion.problem import InversionProblem
from adversary.inversion.simulator import Searching, Simulation, Simulator
from adversary.inversion.simulators import (
    Corrected,
    LearnedPath,
    PathGradient,
    PooledGradient,
    SingleGradient,
    Unrolled,
)
from adversary.inversion.solver import Candidate, Problem, Solution, Solver

__all__ = [
    "LBFGS",
    "Adam",
    "Candidate",
    "Corrected",
    "Cosine",
    "Distance",
    "Euclidean",
    "Inversion",
    "InversionProblem",
    "LayerWise",
    "LearnedPath",
    "Optimiser",
    "PathGradient",
    "PooledGradient",
    "Prior",
    "Problem",
    "Searching",
    "SignAdam",
    "Simulation",
    "Simulator",
    "SingleGradient",
    "Solution",
    "Solver",
    "TotalVariation",
    "Unrolled",
    "Weighted",
    "total_variation",
]
