"""The experiment as a Flower app: ``flwr run .``, in Flower's simulation or on a federation of SuperNodes.

What to run stands in Flower's run configuration (``[tool.flwr.app.config]`` in pyproject.toml):

- ``experiment``: a configuration. A relative path is looked for in the app's bundle, which holds the files of
  the repository's root folder and of folders of the user's own, and then in the installed fedsim.
- ``set``: changes to it, as on fedsim's command line: ``"data.clients=4 training.rounds=2"``.
- ``out``: the run folder; ``runs/flower-RUN_ID`` if empty. A relative path is below the repository, or below
  the SuperLink's working directory where fedsim is not installed from a repository.
- ``wait``: seconds to wait until a node for each client is connected.
"""

from __future__ import annotations

import functools
import shlex
import sys
import time
from logging import INFO
from pathlib import Path
from typing import cast

import torch
from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from flwr.common.logger import log
from flwr.serverapp import Grid, ServerApp

from clients import Environment, client_app
from experiments.experiment import Experiment
from fedsim.errors import FedsimError, invalid

ROOT = Path(__file__).parents[2]
"""The repository, or the folder that fedsim is installed in."""

POLL = 0.5
"""Seconds between two looks at who is connected."""


@functools.cache
def experiment_of(path: str, changes: str) -> Experiment:
    """The experiment of a run configuration, the same object for each message that a process handles.

    Raises:
        FedsimError: there is no such file, or the configuration is wrong.
    """
    return Experiment.load(_find(path), shlex.split(changes))


def _find(path: str) -> Path:
    # Flower unpacks the bundle somewhere and puts that folder on the module path.
    for folder in [*sys.path, str(ROOT)]:
        if (Path(folder) / path).is_file():
            return Path(folder) / path
    raise invalid(
        "experiment",
        path,
        "there is no such file in the app's bundle or the installed fedsim",
        "Put it beside pyproject.toml, or give an absolute path that exists on every node",
    )


def _experiment(context: Context) -> Experiment:
    return experiment_of(str(context.run_config["experiment"]), str(context.run_config["set"]))


def environment_of(context: Context) -> Environment:
    """What the client on a node works with.

    Raises:
        FedsimError: the node was set up for another number of clients than the experiment has.
    """
    torch.set_num_threads(1)  # as with fedsim's own engines, or sums of floats would come out differently
    experiment = _experiment(context)
    clients = experiment.config.data.clients
    partitions = context.node_config.get("num-partitions", clients)
    if partitions != clients:
        raise invalid(
            "num-partitions",
            partitions,
            f"the experiment has data.clients = {clients}",
            f"Give the nodes num-partitions={clients}, or set data.clients={partitions}",
        )
    client = cast("int", context.node_config.get("partition-id", 0))
    if not 0 <= client < clients:
        raise invalid("partition-id", client, f"clients are 0 to {clients - 1}", "Give each node another one of these")
    return experiment.environment


class _Importable(ClientApp):
    """A ``ClientApp`` that is imported where it is unpickled.

    Flower's simulation sends the app to its Ray actors, but ours holds resident models and locks.
    """

    def __init__(self, app: ClientApp) -> None:
        super().__init__()
        self._app = app

    def __call__(self, message: Message, context: Context) -> Message:
        return self._app(message, context)

    def __reduce__(self) -> tuple[object, ...]:
        return _imported, ()


def _imported() -> ClientApp:
    return client


client = _Importable(client_app(environment_of))
server = ServerApp()


@server.main()
def main(grid: Grid, context: Context) -> None:
    """Run the experiment on the nodes of the grid, and write the global model it ends with beside its records.

    Raises:
        FedsimError: the configuration cannot work, or not as many nodes are connected as there are clients.
    """
    # Clients load this module for each message on a real federation, and need none of these.
    from safetensors.torch import save_file

    from experiments.run import run

    experiment = _experiment(context)
    out = folder(str(context.run_config["out"]), context.run_id)
    log(INFO, "fedsim: %s, into %s", experiment.config.name, out)
    wait_for(grid, experiment.config.data.clients, float(context.run_config["wait"]))
    result = run(experiment, out, grid=grid)
    save_file(result.final_arrays, out / "final.safetensors")
    log(INFO, "fedsim: %s", result.summary())
    log(INFO, "fedsim: report: %s", result.report)


def folder(out: str, run_id: int) -> Path:
    """The run folder, absolute."""
    path = Path(out or f"runs/flower-{run_id}").expanduser()
    return (ROOT if (ROOT / "pyproject.toml").is_file() else Path.cwd()) / path


def wait_for(grid: Grid, clients: int, seconds: float) -> None:
    """Wait until there is exactly one node for each client.

    Raises:
        FedsimError: there are more or fewer after this time; the message says how many.
    """
    deadline = time.monotonic() + seconds
    before = None
    while (connected := len(list(grid.get_node_ids()))) != clients:
        if connected != before:
            log(INFO, "fedsim: %d of %d nodes are connected", connected, clients)
            before = connected
        if time.monotonic() > deadline:
            raise FedsimError(
                f"{connected} nodes are connected, but the experiment has data.clients = {clients} "
                f"(waited {seconds:g} seconds). In Flower's simulation, add: --federation-config "
                f'"num-supernodes={clients}". On a real federation, start a SuperNode for each client, and no other.'
            )
        time.sleep(POLL)
