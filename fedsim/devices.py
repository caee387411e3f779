"""How long simulated clients take for a round: machines and networks drawn from a seed.

Engines run clients as fast as they can, so that measured times say nothing about phones. Selectors that prefer the fast
are told these durations in their place; nothing waits for them, and no result but the selection depends on them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from fedsim import seeding
from fedsim.errors import invalid


@dataclass(frozen=True)
class Devices:
    """Log-normal speeds of computing and sending, one of each a client, and log-normal jitter from round to round.

    The duration of a round, in seconds, is

        (examples / (c exp(spread z_1)) + bytes / (b exp(network_spread z_2))) exp(jitter z_3)

    with standard normal z_1 and z_2 of the client and z_3 of client and round. The form is a
    choice, not a trace: positive, skewed, a few clients much slower than most. With a spread of 1, a client at the
    tenth percentile is 3.6 times as slow as the median one.

    Attributes:
        examples_per_second: c, examples of a local step that the median client computes in a second.
        spread: standard deviation of the logarithm of computing speeds; 0 makes all clients alike.
        bytes_per_second: b, of the median client's network, both ways together.
        network_spread: likewise for networks.
        jitter: likewise from round to round.
    """

    examples_per_second: float = 500.0
    spread: float = 1.0
    bytes_per_second: float = 1e6
    network_spread: float = 1.0
    jitter: float = 0.1

    def __post_init__(self) -> None:
        for name in ("examples_per_second", "bytes_per_second"):
            if not getattr(self, name) > 0:
                raise invalid(name, getattr(self, name), "must be above 0", "Correct it")
        for name in ("spread", "network_spread", "jitter"):
            if not getattr(self, name) >= 0:
                raise invalid(name, getattr(self, name), "must not be negative", "Correct it")

    def seconds(self, seed: int, client: int, *, examples: int, bytes: int, round: int | None = None) -> float:
        """Duration of a client's round.

        Args:
            seed: of the experiment.
            client: its number.
            examples: computed, over all local steps.
            bytes: sent and received.
            round: its number; without it, what the client expects: no jitter.
        """
        machine = seeding.numpy_generator(seed, "device", client)
        computing = self.examples_per_second * math.exp(self.spread * machine.standard_normal())
        network = self.bytes_per_second * math.exp(self.network_spread * machine.standard_normal())
        late = 0.0
        if round is not None:
            late = self.jitter * seeding.numpy_generator(seed, "device", client, "round", round).standard_normal()
        return (examples / computing + bytes / network) * math.exp(late)
