"""What is trained in a benchmark: the same for all contenders."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from experiments.experiment import Experiment
from fedsim import seeding
from fedsim.protocol import Profile
from server.selection import Pool, choose


@dataclass(frozen=True)
class Workload:
    """Federated averaging by SGD without momentum.

    A client goes through its shard in shuffled passes, each cut into batches of which the last may be smaller,
    until it has taken its steps.

    Attributes:
        name: as on the command line.
        local_steps: of a client in a round.
        batch_size: examples a step.
        model: by name.
        clients: of the federation.
        clients_per_round: of them in a round.
        learning_rate: of the clients' SGD.
        data: by name.
        examples: images of a client, drawn so that clients may share them; ``None`` deals all images out.
    """

    name: str
    local_steps: int
    batch_size: int
    model: str = "lenet"
    clients: int = 100
    clients_per_round: int = 10
    learning_rate: float = 0.1
    data: str = "fashion_mnist_small"
    examples: int | None = None

    def experiment(self, engine: Mapping[str, Any] | None = None) -> Experiment:
        """The same as an experiment of fedsim's.

        Args:
            engine: the ``[engine]`` table.

        Raises:
            FedsimError: there is no such training.
        """
        partition = {} if self.examples is None else {"partition": {"name": "overlapping", "examples": self.examples}}
        return Experiment.of(
            {
                "name": self.name,
                "data": {"name": self.data, "clients": self.clients, **partition},
                "model": {"name": self.model},
                "training": {
                    "rounds": 1_000_000,
                    "local_steps": self.local_steps,
                    "batch_size": self.batch_size,
                    "learning_rate": self.learning_rate,
                },
                "selection": {"clients_per_round": self.clients_per_round},
                "engine": dict(engine or {}),
            }
        )

    def over(self, clients: int) -> Workload:
        """The same with another number of clients, each with 40 images that others may have too."""
        return replace(self, clients=clients, examples=40)

    def to_dict(self) -> dict[str, Any]:
        """For JSON; ``Workload(**...)`` makes it again."""
        return asdict(self)


WORKLOADS: Mapping[str, Workload] = {
    "compute": Workload("compute", local_steps=19, batch_size=32),
    "overhead": Workload("overhead", local_steps=1, batch_size=8),
    "resnet18": Workload(
        "resnet18", local_steps=1, batch_size=32, model="resnet18", clients=20, clients_per_round=20, learning_rate=0.05
    ),
}
"""By name: what is mostly computing, what is mostly everything else, and a model of 11 million parameters."""


def cohorts(experiment: Experiment) -> Iterator[list[int]]:
    """The clients that fedsim selects in round 1, 2, ..."""
    strategy = experiment.strategy()
    candidates = [Profile(client, 0) for client in range(experiment.config.data.clients)]
    state = strategy.selector.init(candidates)
    size = strategy.clients_per_round or len(candidates)
    number = 0
    while True:
        number += 1
        generator = seeding.numpy_generator(strategy.seed, "selection", "round", number)
        pool = Pool(number, candidates, size, generator, ask=lambda _: {})
        yield [int(position) for position in choose(strategy.selector, state, pool).positions]
