"""The server side: the round loop, strategies, client selection, and the wiretap."""

from server.loop import Round, federate
from server.selection import SELECTORS, Selective
from server.strategies import STRATEGIES
from server.wiretap import HonestButCurious

__all__ = ["SELECTORS", "STRATEGIES", "HonestButCurious", "Round", "Selective", "federate"]
