"""R-GAP: recursive gradient attack on privacy, and the rank analysis that says where it works.

Zhu, Blaschko. ICLR 2021. arXiv:2010.07733.
"""

from adversary.rgap.attack import RecursiveGradientAttack, rgap
from adversary.rgap.ranks import LayerRank, RankAnalysis, rank_analysis

__all__ = ["LayerRank", "RankAnalysis", "RecursiveGradientAttack", "rank_analysis", "rgap"]
