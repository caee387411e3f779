"""fedsim itself, with one of its engines, without evaluation."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from experiments.benchmarks.workloads import Workload
from fedsim.arrays import from_record, to_record
from fedsim.engines.simulated import SimulatedGrid
from server.loop import federate


class Engine:
    """The loop behind ``fedsim run``.

    Args:
        workload: what to train.
        name: of the engine.
        workers: of the engine.
        parameters: of the engine.
    """

    def __init__(self, workload: Workload, name: str = "local", workers: int = 1, **parameters: Any) -> None:
        torch.set_num_threads(1)
        experiment = workload.experiment({"name": name, "workers": workers, **parameters})
        experiment.check()
        self._grid = experiment.grid()
        self._rounds = federate(
            experiment.strategy(),
            self._grid,
            to_record(experiment.model().state_dict()),
            rounds=experiment.config.training.rounds,
            train_config=experiment.plan.to_config(),
        )
        self._done = next(self._rounds)

    def round(self) -> None:
        self._done = next(self._rounds)

    def arrays(self) -> dict[str, Tensor]:
        return from_record(self._done.arrays)

    def close(self) -> None:
        """End the engine's workers."""
        if isinstance(self._grid, SimulatedGrid):
            self._grid.close()
