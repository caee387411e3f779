"""The report of a run: one self-contained HTML page of what was learnt and what leaked."""

from experiments.report.page import write_report
from experiments.report.pictures import strip

__all__ = ["strip", "write_report"]
