"""Flower's own simulation on Ray, with client code in plain PyTorch as Flower's tutorials have it.

Kinder than those: data is loaded and normalised once an actor, and batches are cut from tensors in memory.
"""

from __future__ import annotations

import functools
import json
import os
import queue
import threading
from collections.abc import Iterable
from typing import cast

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation
from torch import Tensor
from torch.nn import functional

from experiments.benchmarks.workloads import Workload
from experiments.experiment import Experiment
from fedsim.data import normalised

app = ClientApp()


@functools.cache
def _experiment(workload: str) -> Experiment:
    return Workload(**json.loads(workload)).experiment()


@functools.cache
def _data(workload: str, client: int) -> tuple[Tensor, Tensor]:
    experiment = _experiment(workload)
    shard = experiment.shard(client)
    return normalised(shard.images, experiment.data.mean, experiment.data.std), shard.labels


@app.train()
def train(message: Message, context: Context) -> Message:
    """A client's local steps."""
    torch.set_num_threads(1)
    config = cast("ConfigRecord", message.content["config"])
    workload = str(config["workload"])
    images, labels = _data(workload, int(context.node_config["partition-id"]))
    model = _experiment(workload).model()
    model.load_state_dict(cast("ArrayRecord", message.content["arrays"]).to_torch_state_dict())
    model.train()
    optimiser = torch.optim.SGD(model.parameters(), cast("float", config["learning-rate"]))
    steps, size = cast("int", config["local-steps"]), cast("int", config["batch-size"])
    done, total = 0, 0.0
    while done < steps:
        for chosen in torch.split(torch.randperm(len(labels)), size)[: steps - done]:
            optimiser.zero_grad()
            loss = functional.cross_entropy(model(images[chosen]), labels[chosen])
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            done, total = done + 1, total + loss.item()
    metrics = MetricRecord({"num-examples": len(labels), "train_loss": total / steps})
    return Message(
        RecordDict({"arrays": ArrayRecord(model.state_dict()), "metrics": metrics}),
        reply_to=message,
    )


class _Stopped(Exception):  # noqa: N818  (not an error)
    """No more rounds are wanted."""


class _InTurn(FedAvg):
    """Flower's FedAvg, which begins a round when it is told to, and says when it would begin the next."""

    def __init__(self, *, fraction: float) -> None:
        super().__init__(fraction_train=fraction, fraction_evaluate=0.0, min_train_nodes=1, min_available_nodes=1)
        self.go: queue.Queue[bool] = queue.Queue()
        self.ready: queue.Queue[BaseException | None] = queue.Queue()
        self.latest: ArrayRecord | None = None

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        self.latest = arrays
        self.ready.put(None)
        if not self.go.get():
            raise _Stopped
        return super().configure_train(server_round, arrays, config, grid)


class FlowerSimulation:
    """``flwr.simulation.run_simulation`` with FedAvg, stopped between rounds.

    A round is timed from where Flower's strategy configures it to where it would configure the next: sampling,
    sending, training, collecting, aggregating, and the loop around them.

    Args:
        workload: what to train.
        workers: Ray actors, a core each.
    """

    def __init__(self, workload: Workload, workers: int) -> None:
        self._strategy = _InTurn(fraction=workload.clients_per_round / workload.clients)
        self._workload = workload
        self._thread = threading.Thread(target=self._simulate, args=(workers,), daemon=True)
        self._thread.start()
        self._wait()

    def round(self) -> None:
        self._strategy.go.put(True)
        self._wait()

    def arrays(self) -> dict[str, Tensor]:
        if self._strategy.latest is None:
            raise RuntimeError("no round has begun")
        return dict(self._strategy.latest.to_torch_state_dict())

    def close(self) -> None:
        """End the simulation, and Ray with it."""
        self._strategy.go.put(False)
        self._thread.join()

    def _wait(self) -> None:
        error = self._strategy.ready.get()
        if error is not None:
            raise RuntimeError("Flower's simulation ended") from error

    def _simulate(self, workers: int) -> None:
        server = ServerApp()
        workload = self._workload

        @server.main()
        def main(grid: Grid, context: Context) -> None:  # noqa: ARG001
            config = ConfigRecord(
                {
                    "workload": json.dumps(workload.to_dict()),
                    "learning-rate": workload.learning_rate,
                    "local-steps": workload.local_steps,
                    "batch-size": workload.batch_size,
                }
            )
            start = ArrayRecord(workload.experiment().model().state_dict())
            try:
                self._strategy.start(grid, start, num_rounds=1_000_000, train_config=config)
            except _Stopped:
                return
            except BaseException as error:
                self._strategy.ready.put(error)
                raise

        try:
            run_simulation(
                server,
                app,
                num_supernodes=workload.clients,
                backend_config={
                    "init_args": {"num_cpus": workers},
                    "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
                },
            )
        except BaseException as error:  # noqa: BLE001  (told to whoever waits)
            self._strategy.ready.put(error)
