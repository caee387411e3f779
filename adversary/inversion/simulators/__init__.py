"""The simulators there are, from one gradient to the client's whole training."""

from adversary.inversion.simulators.corrected import Corrected
from adversary.inversion.simulators.gradient import PooledGradient, SingleGradient
from adversary.inversion.simulators.path import LearnedPath, PathGradient
from adversary.inversion.simulators.unrolled import Unrolled

__all__ = ["Corrected", "LearnedPath", "PathGradient", "PooledGradient", "SingleGradient", "Unrolled"]
