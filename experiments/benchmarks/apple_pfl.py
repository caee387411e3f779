"""Apple's pfl in one process: its simulated backend, federated averaging, and PyTorch bridge.

Kinder than a user's first program: images are normalised beforehand, batches are cut once and not shuffled (as
pfl's own data sets have it), nothing is evaluated, and no postprocessor weighs the equally large clients.
"""

from __future__ import annotations

import functools
import itertools
import os
from collections.abc import Iterator
from typing import Any

os.environ.setdefault("PFL_PYTORCH_DEVICE", "cpu")

import torch
from pfl.aggregate.simulate import SimulatedBackend
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.data.dataset import Dataset
from pfl.data.federated_dataset import FederatedDataset
from pfl.data.sampling import get_user_sampler
from pfl.hyperparam.base import NNTrainHyperParams
from pfl.metrics import Weighted
from pfl.model.pytorch import PyTorchModel
from torch import Tensor, nn
from torch.nn import functional

from experiments.benchmarks.workloads import Workload
from fedsim.data import normalised

NEVER = 10**9


class _Network(nn.Module):
    """A network as pfl wants it."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def loss(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """Mean cross-entropy, a scalar."""
        self.network.train()
        return functional.cross_entropy(self.network(inputs), labels)

    @torch.no_grad()
    def metrics(self, inputs: Tensor, labels: Tensor) -> dict[str, Any]:
        """The loss, for pfl's evaluation before round 1."""
        total = functional.cross_entropy(self.network(inputs), labels, reduction="sum")
        return {"loss": Weighted(float(total), len(labels))}


class _Passes(Dataset):  # type: ignore[misc]
    """A user's data, gone through again and again until the steps are taken; pfl's own stops after a pass."""

    def __init__(self, raw_data: tuple[Tensor, ...], steps: int) -> None:
        super().__init__(raw_data)
        self._steps = steps

    def iter(self, batch_size: int | None) -> Iterator[Any]:
        batches = list(super().iter(batch_size))
        return itertools.islice(itertools.cycle(batches), self._steps)


class ApplePFL:
    """``FederatedAveraging`` over a ``SimulatedBackend``.

    Args:
        workload: what to train.
    """

    def __init__(self, workload: Workload) -> None:
        torch.set_num_threads(1)
        experiment = workload.experiment()

        @functools.cache
        def user(client: int) -> Dataset:
            shard = experiment.shard(client)
            images = normalised(shard.images, experiment.data.mean, experiment.data.std)
            return _Passes((images, shard.labels), workload.local_steps)

        clients = list(range(workload.clients))
        data = FederatedDataset(user, get_user_sampler("minimize_reuse", clients))
        self._backend = SimulatedBackend(training_data=data, val_data=data)
        self._network = _Network(experiment.model())
        central = torch.optim.SGD(self._network.parameters(), lr=1.0)
        self._model = PyTorchModel(self._network, torch.optim.SGD, central)
        self._algorithm = FederatedAveraging()
        self._training = NNTrainHyperParams(
            local_num_epochs=None,
            local_num_steps=workload.local_steps,
            local_learning_rate=workload.learning_rate,
            local_batch_size=workload.batch_size,
        )
        self._cohort = workload.clients_per_round
        self._number = 0

    def round(self) -> None:
        self._number += 1  # run goes on where it stopped
        parameters = NNAlgorithmParams(
            central_num_iterations=self._number,
            evaluation_frequency=NEVER,
            train_cohort_size=self._cohort,
            val_cohort_size=None,
        )
        self._model = self._algorithm.run(
            parameters, self._backend, self._model, self._training, send_metrics_to_platform=False
        )

    def arrays(self) -> dict[str, Tensor]:
        return dict(self._network.network.state_dict())

    def close(self) -> None:
        """Nothing was started."""
