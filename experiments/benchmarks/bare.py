"""The bare PyTorch loop: what the training alone costs in one process."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from experiments.benchmarks.workloads import Workload, cohorts
from experiments.experiment import Experiment
from fedsim.data import normalised


class Trainer:
    """A resident model that trains for one client after the other.

    Args:
        experiment: whose training it is.
    """

    def __init__(self, experiment: Experiment) -> None:
        torch.set_num_threads(1)
        self.shards = [experiment.shard(client) for client in range(experiment.config.data.clients)]
        self._experiment = experiment
        self._model = experiment.model()
        self.state: dict[str, Tensor] = self._model.state_dict()
        self._optimiser = torch.optim.SGD(self._model.parameters(), experiment.plan.learning_rate)  # has no state

    def train(self, start: dict[str, Tensor], client: int, round: int) -> None:
        """From the arrays given; the client's model is in ``state`` then."""
        data, shard = self._experiment.data, self.shards[client]
        with torch.no_grad():
            for name, tensor in self.state.items():
                tensor.copy_(start[name])
        self._model.train()
        for chosen in self._experiment.batches(client, round):
            inputs = normalised(shard.images[chosen], data.mean, data.std)
            self._optimiser.zero_grad()
            functional.cross_entropy(self._model(inputs), shard.labels[chosen]).backward()  # type: ignore[no-untyped-call]
            self._optimiser.step()

    def weights(self, cohort: list[int]) -> list[float]:
        """Of each client in the mean: its share of the cohort's examples."""
        sizes = [len(self.shards[client]) for client in cohort]
        return [size / sum(sizes) for size in sizes]


@torch.no_grad()
def add(mean: dict[str, Tensor], state: dict[str, Tensor], weight: float) -> None:
    """Add a client's weighted model to a mean, whose arrays are floats where the model's are integers."""
    for name, tensor in state.items():
        mean[name].add_(tensor, alpha=weight)


@torch.no_grad()
def like(mean: dict[str, Tensor], state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A mean in the model's own types; integers are rounded."""
    return {
        name: mean[name] if tensor.is_floating_point() else mean[name].round().to(tensor.dtype)
        for name, tensor in state.items()
    }


class BareLoop:
    """FedAvg as anyone would write it who needs nothing but the result.

    Args:
        workload: what to train.
    """

    def __init__(self, workload: Workload) -> None:
        experiment = workload.experiment()
        self._trainer = Trainer(experiment)
        self._cohorts = cohorts(experiment)
        self._state = {name: tensor.clone() for name, tensor in self._trainer.state.items()}
        self._number = 0

    def round(self) -> None:
        self._number += 1
        cohort = next(self._cohorts)
        mean = {name: torch.zeros(tensor.shape) for name, tensor in self._state.items()}
        for client, weight in zip(cohort, self._trainer.weights(cohort), strict=True):
            self._trainer.train(self._state, client, self._number)
            add(mean, self._trainer.state, weight)
        self._state = like(mean, self._state)

    def arrays(self) -> dict[str, Tensor]:
        return self._state

    def close(self) -> None:
        """Nothing was started."""
