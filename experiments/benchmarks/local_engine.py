"""What the ``local`` engine costs over a bare PyTorch loop of the same training.

LeNet, 100 clients, 10 a round, 19 local steps of batch 32, one compute thread each. The two take turns,
round by round, so that whatever else the machine does falls on both alike.
"""

from __future__ import annotations

import functools
import json
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, TypeVar

import torch
import typer
from torch import Tensor
from torch.nn import functional

from experiments.experiment import Experiment
from fedsim.arrays import to_record
from fedsim.data import normalised
from server.loop import Round, federate

T = TypeVar("T")


def workload(data: str, workers: int = 1) -> Experiment:
    """The training that is measured."""
    return Experiment.of(
        {
            "name": "benchmark",
            "data": {"name": data, "clients": 100},
            "model": {"name": "lenet"},
            "training": {"rounds": 1_000, "local_steps": 19, "batch_size": 32, "learning_rate": 0.1},
            "selection": {"clients_per_round": 10},
            "engine": {"workers": workers},
        }
    )


def bare_round(
    experiment: Experiment, model: torch.nn.Module, start: dict[str, Tensor], cohort: list[int], round: int
) -> dict[str, Tensor]:
    """One round of FedAvg in plain PyTorch: the global arrays after it."""
    plan, data = experiment.plan, experiment.data
    total = sum(len(experiment.shards[client]) for client in cohort)
    mean = {name: torch.zeros_like(tensor) for name, tensor in start.items()}
    for client in cohort:
        shard = experiment.shard(client)
        model.load_state_dict(start)
        model.train()
        optimiser = torch.optim.SGD(model.parameters(), plan.learning_rate)
        for chosen in experiment.batches(client, round):
            inputs = normalised(shard.images[chosen], data.mean, data.std)
            optimiser.zero_grad()
            functional.cross_entropy(model(inputs), shard.labels[chosen]).backward()  # type: ignore[no-untyped-call]
            optimiser.step()
        with torch.no_grad():
            for name, tensor in model.state_dict().items():
                mean[name] += tensor * (len(shard) / total)
    return mean


def fedsim_rounds(experiment: Experiment) -> Iterator[Round]:
    """The same training by fedsim, without evaluation."""
    grid = experiment.grid()
    return federate(
        experiment.strategy(),
        grid,
        to_record(experiment.model().state_dict()),
        rounds=experiment.config.training.rounds,
        train_config=experiment.plan.to_config(),
    )


def main(
    rounds: Annotated[int, typer.Option(help="Rounds of each.")] = 30,
    data: Annotated[str, typer.Option(help="Data set.")] = "fashion_mnist_small",
    out: Annotated[Path | None, typer.Option(help="Also write the figures there, as JSON.")] = None,
) -> None:
    """Measure and print seconds a round and their ratio."""
    torch.set_num_threads(1)
    experiment = workload(data)
    fedsim = fedsim_rounds(experiment)
    next(fedsim)
    model = experiment.model()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    seconds: dict[str, list[float]] = {"bare": [], "fedsim": []}
    for number in range(1, rounds + 1):
        taken, done = _timed(lambda: next(fedsim))
        seconds["fedsim"].append(taken)
        bare = functools.partial(bare_round, experiment, model, state, list(done.clients), number)
        taken, state = _timed(bare)
        seconds["bare"].append(taken)
    ratios = [f / b for f, b in zip(seconds["fedsim"], seconds["bare"], strict=True)]
    found = {
        "machine": f"{platform.processor() or platform.machine()}, torch {torch.__version__}",
        "rounds": rounds,
        "bare_seconds_a_round": statistics.median(seconds["bare"]),
        "fedsim_seconds_a_round": statistics.median(seconds["fedsim"]),
        "ratio_median": statistics.median(ratios),
        "ratio_total": sum(seconds["fedsim"]) / sum(seconds["bare"]),
    }
    typer.echo(json.dumps(found, indent=2))
    if out is not None:
        out.write_text(json.dumps(found, indent=2) + "\n")


def _timed(work: Callable[[], T]) -> tuple[float, T]:
    started = time.perf_counter()
    result = work()
    return time.perf_counter() - started, result


if __name__ == "__main__":
    typer.run(main)
