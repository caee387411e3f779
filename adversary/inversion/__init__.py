"""Gradient inversion by optimisation, put together from parts; a published attack names its parts."""

from adversary.inversion.distance import Cosine, Distance, Euclidean
from adversary.inversion.inversion import Inversion, InversionProblem
from adversary.inversion.optimiser import LBFGS, Adam, Optimiser, SignAdam
from adversary.inversion.prior import Prior, TotalVariation, total_variation
from adversary.inversion.simulator import Simulation, Simulator, SingleGradient
from adversary.inversion.solver import Candidate, Problem, Solution, Solver

__all__ = [
    "LBFGS",
    "Adam",
    "Candidate",
    "Cosine",
    "Distance",
    "Euclidean",
    "Inversion",
    "InversionProblem",
    "Optimiser",
    "Prior",
    "Problem",
    "SignAdam",
    "Simulation",
    "Simulator",
    "SingleGradient",
    "Solution",
    "Solver",
    "TotalVariation",
    "total_variation",
]
