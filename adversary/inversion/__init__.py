"""Gradient inversion by optimisation, put together from parts; a published attack names its parts."""

from adversary.inversion.batch import Victim, reconstruct_many
from adversary.inversion.copies import SameImages
from adversary.inversion.distance import Cosine, Distance, Euclidean, LayerWise, TensorNorms, Weighted
from adversary.inversion.group import Group
from adversary.inversion.inversion import Inversion
from adversary.inversion.optimiser import LBFGS, Adam, LangevinAdam, Optimiser, SignAdam
from adversary.inversion.prior import Magnitude, Observing, OutOfRange, Prior, Together, TotalVariation, total_variation
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
from adversary.inversion.statistics import BatchStatistics

__all__ = [
    "LBFGS",
    "Adam",
    "BatchStatistics",
    "Candidate",
    "Corrected",
    "Cosine",
    "Distance",
    "Euclidean",
    "Group",
    "Inversion",
    "InversionProblem",
    "LangevinAdam",
    "LayerWise",
    "LearnedPath",
    "Magnitude",
    "Observing",
    "Optimiser",
    "OutOfRange",
    "PathGradient",
    "PooledGradient",
    "Prior",
    "Problem",
    "SameImages",
    "Searching",
    "SignAdam",
    "Simulation",
    "Simulator",
    "SingleGradient",
    "Solution",
    "Solver",
    "TensorNorms",
    "Together",
    "TotalVariation",
    "Unrolled",
    "Victim",
    "Weighted",
    "reconstruct_many",
    "total_variation",
]
