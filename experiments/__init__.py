"""What is run: configurations, runs, scores, reports, the command line, the papers' tables."""

from experiments.experiment import Experiment
from experiments.run import Result, run

__all__ = ["Experiment", "Result", "run"]
