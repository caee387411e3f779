"""What coalitions measured along orders tell together: values by place, and their standard errors."""

from __future__ import annotations

from collections.abc import Hashable, Mapping

import numpy as np
from numpy.typing import NDArray


class Marginals:
    """All marginal contributions whose two coalitions are known, each counted once.

    A coalition is a number whose bits are the players in it. Orders come in sweeps that are independent of one
    another and in each of which every player comes once in every place.

    Args:
        size: players, m.
        nobody: the worth of nobody.
        everybody: the worth of all together.
    """

    def __init__(self, size: int, nobody: float, everybody: float) -> None:
        self.size = size
        self.everybody = everybody
        self.sweeps = 0
        self._gain = everybody - nobody
        self._worth = {0: nobody, (1 << size) - 1: everybody}
        self._found: dict[tuple[int, int], tuple[float, int, int]] = {}  # (without i, i): marginal, its two nodes
        self._nodes: dict[Hashable, int] = {0: 0, (1 << size) - 1: 1}
        self._seen: list[set[int]] = []  # of each sweep, the nodes that it came by
        self._join((1 << size) - 1)

    @property
    def complete(self) -> bool:
        """Whether every coalition is known, so that values are exact."""
        return self.coalitions == 1 << self.size

    @property
    def coalitions(self) -> int:
        """How many coalitions are known, that of nobody included."""
        return len(self._worth)

    def unknown(self, orders: NDArray[np.int64]) -> int:
        """How many coalitions along these orders, uncut, are not known."""
        paths = np.array([1 << i for i in range(self.size)], dtype=object)[orders].cumsum(1)
        return len(set(paths.ravel().tolist()) - self._worth.keys())

    def worth(self, coalition: int) -> float:
        """What a known coalition is worth."""
        return self._worth[coalition]

    def start_sweep(self) -> None:
        """What follows belongs to the next sweep."""
        self.sweeps += 1
        self._seen.append({0, 1})

    def note(self, worth: Mapping[int, float]) -> None:
        """Coalitions that the sweep came by, known or new."""
        for coalition, value in worth.items():
            new = coalition not in self._worth
            self._worth[coalition] = value
            self._seen[-1].add(self._nodes.setdefault(coalition, len(self._nodes)))
            if new:
                self._join(coalition)

    def cut(self, without: int, player: int) -> None:
        """The sweep came by a player behind its cut, who gets 0 unless the marginal is measured elsewhere."""
        node = self._nodes.setdefault((without, player), len(self._nodes))
        self._seen[-1].add(node)
        self._found.setdefault((without, player), (0.0, node, node))

    def estimate(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Values and standard errors, float64 [m] each.

        The value of a player is the mean over places of the mean marginal in that place. Labels being drawn at
        random, the marginals known for a place are a random sample, without replacement, of all there are; hence
        it is unbiased. What the values lack to the gain is shared equally among those whose value is uncertain, so
        that who never adds anything gets exactly nothing. After one sweep alone nobody is certain but who added
        nothing in it, and errors are infinite. Errors are the jackknife's over sweeps, whose variance
        is not too small in the mean (Efron and Stein, Annals of Statistics 9(3), 1981).
        """
        means = self._place_means()
        values, without_one = means[0], means[1:]
        if self.complete:
            return values, np.zeros(self.size)
        uncertain = _jackknife(without_one) > 0 if self.sweeps > 1 else values != 0
        shares = uncertain / max(uncertain.sum(), 1)
        values = values + shares * (self._gain - values.sum())
        if self.sweeps == 1:
            return values, np.full(self.size, np.inf)
        without_one = without_one + shares * (self._gain - without_one.sum(1, keepdims=True))
        return values, np.sqrt(_jackknife(without_one))

    def _place_means(self) -> NDArray[np.float64]:
        """Values by places, [1 + sweeps, m]: of all sweeps, and of all but each one."""
        seen = np.zeros((self.sweeps, len(self._nodes)), dtype=bool)
        for row, nodes in zip(seen, self._seen, strict=True):
            row[list(nodes)] = True
        others = seen.sum(0) - seen > 0
        there = np.concatenate([np.ones((1, len(self._nodes)), dtype=bool), others])
        marginals, tails, heads = (np.array(column) for column in zip(*self._found.values(), strict=True))
        cells = np.array([i * self.size + without.bit_count() for without, i in self._found])
        means = []
        for alive in there[:, tails] & there[:, heads]:
            sums = np.bincount(cells, marginals * alive, self.size**2)
            counts = np.bincount(cells, alive, self.size**2)
            means.append((sums / np.maximum(counts, 1)).reshape(self.size, self.size).mean(1))
        return np.stack(means)

    def _join(self, coalition: int) -> None:
        """Note the marginals of a coalition just measured with those one player away."""
        for i in range(self.size):
            without = coalition & ~(1 << i)
            other = coalition ^ (1 << i)
            if other in self._worth:
                marginal = self._worth[without | 1 << i] - self._worth[without]
                self._found[without, i] = (marginal, self._nodes[without], self._nodes[without | 1 << i])


def _jackknife(without_one: NDArray[np.float64]) -> NDArray[np.float64]:
    """Variances, [m], of what was computed without each of n sweeps, [n, m]."""
    variances: NDArray[np.float64] = (len(without_one) - 1) * without_one.var(axis=0)
    return variances
