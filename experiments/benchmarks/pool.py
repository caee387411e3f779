"""A pool of forked processes over shared memory: what a machine's cores can do at best.

Only who trains is sent through a pipe. The global arrays, and the sum over a process's part of the cohort, lie in
memory that all share.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from multiprocessing.connection import Connection

import torch
from torch import Tensor

from experiments.benchmarks.bare import Trainer, add, like
from experiments.benchmarks.workloads import Workload, cohorts
from experiments.experiment import Experiment

Shared = dict[str, Tensor]


class SharedPool:
    """The bare loop, its cohort divided among processes beforehand.

    Args:
        workload: what to train.
        workers: processes.
    """

    def __init__(self, workload: Workload, workers: int) -> None:
        self._trainer = Trainer(experiment := workload.experiment())
        self._cohorts = cohorts(experiment)
        self._number = 0
        self._start = _shared(self._trainer.state)
        self._sums = [_shared(self._trainer.state) for _ in range(workers)]
        for name, tensor in self._trainer.state.items():
            self._start[name].copy_(tensor)
        fork = multiprocessing.get_context("fork")
        self._pipes: list[Connection] = []
        self._processes = []
        for mine in self._sums:
            ours, theirs = fork.Pipe()
            self._pipes.append(ours)
            arguments = (theirs, list(self._pipes), experiment, self._start, mine)
            process = fork.Process(target=_work, args=arguments, daemon=True)
            process.start()
            theirs.close()
            self._processes.append(process)

    def round(self) -> None:
        self._number += 1
        cohort = next(self._cohorts)
        tasks = list(zip(cohort, self._trainer.weights(cohort), strict=True))
        for i, pipe in enumerate(self._pipes):
            pipe.send((self._number, tasks[i :: len(self._pipes)]))
        for pipe in self._pipes:
            pipe.recv()
        first, *others = self._sums
        for name, tensor in self._start.items():
            tensor.copy_(first[name])
            for other in others:
                tensor.add_(other[name])

    def arrays(self) -> dict[str, Tensor]:
        return like(self._start, self._trainer.state)

    def close(self) -> None:
        """End the processes."""
        for pipe in self._pipes:
            pipe.close()
        for process in self._processes:
            process.join()


def _shared(state: dict[str, Tensor]) -> Shared:
    """Zeros in the shape of a model, float32 whatever its types, in memory that forked processes share."""
    sizes = [tensor.numel() for tensor in state.values()]
    flat = torch.zeros(sum(sizes)).share_memory_()  # type: ignore[no-untyped-call]
    parts = torch.split(flat, sizes)
    return {name: part.view(tensor.shape) for (name, tensor), part in zip(state.items(), parts, strict=True)}


def _work(pipe: Connection, others: list[Connection], experiment: Experiment, start: Shared, mine: Shared) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for other in others:
        other.close()
    trainer = Trainer(experiment)
    while True:
        try:
            number, tasks = pipe.recv()
        except EOFError:
            os._exit(0)
        for tensor in mine.values():
            tensor.zero_()
        for client, weight in tasks:
            trainer.train(start, client, number)
            add(mine, trainer.state, weight)
        pipe.send(None)
