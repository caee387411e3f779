"""Comparing configurations: a grid of runs over seeds, statistics, and a page that says which to use."""

from experiments.compare.compare import Compared, compare

__all__ = ["Compared", "compare"]
