"""The experiment as a Flower app: ``flwr run .``, in Flower's simulation or on a federation of SuperNodes.

What to run stands in Flower's run configuration (``[tool.flwr.app.config]`` in pyproject.toml):

- ``experiment``: a configuration. A relative path is looked for in the app's bundle, which holds the files of
  the repository's root folder and of folders of the user's own, and then in the installed fedsim.
- ``set``: changes to it, as on fedsim's command line: ``"data.clients=4 training.rounds=2"``.
- ``out``: the run folder; ``runs/flower-RUN_ID`` if empty. A relative path is below the repository, or below
  the SuperLink's working directory where fedsim is not installed from a repository.
- ``resume``: go on with the run in ``out``.
- ``wait``: seconds to wait until a node for each client is connected.
"""

from __future__ import annotations

import functools
import shlex
import sys
import time
from collections.abc import Mapping
from logging import INFO
from pathlib import Path

import torch
from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from flwr.common.logger import log
from flwr.serverapp import Grid, ServerApp

from experiments.experiment import Experiment
from experiments.run import run
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


def _named_in(context: Context) -> tuple[str, str]:
    return str(context.run_config["experiment"]), str(context.run_config["set"])


@functools.cache
def _client_app(path: str, changes: str) -> ClientApp:
    return experiment_of(path, changes).client_app()


def check_node(config: Mapping[str, object], clients: int) -> None:
    """Refuse a node that was set up for another experiment.

    Args:
        config: Flower's node configuration.
        clients: number of clients of the experiment.

    Raises:
        FedsimError: its ``num-partitions`` is another number, or its ``partition-id`` no client's.
    """
    partitions = config.get("num-partitions", clients)
    if partitions != clients:
        raise invalid(
            "num-partitions",
            partitions,
            f"the experiment has data.clients = {clients}",
            f"Set the nodes up for num-partitions={clients}, or set data.clients={partitions}",
        )
    client = config.get("partition-id")
    if client not in range(clients):
        raise invalid(
            "partition-id", client, f"the clients are 0 to {clients - 1}", "Give each node another one of these"
        )


class FederatedClient(ClientApp):
    """The client side of whatever experiment the run configuration names.

    Flower's simulation pickles the app to send it to its Ray actors; as resident models and locks cannot be
    sent, it is imported there instead.
    """

    def __call__(self, message: Message, context: Context) -> Message:
        torch.set_num_threads(1)  # as fedsim's own engines do: a sum split over threads rounds differently
        check_node(context.node_config, experiment_of(*_named_in(context)).config.data.clients)
        return _client_app(*_named_in(context))(message, context)

    def __reduce__(self) -> tuple[object, ...]:
        return _imported, ()


def _imported() -> ClientApp:
    return client


client = FederatedClient()
server = ServerApp()


@server.main()
def main(grid: Grid, context: Context) -> None:
    """Run the experiment on the nodes of the grid.

    Raises:
        FedsimError: the configuration cannot work, or not as many nodes are connected as there are clients.
    """
    experiment = experiment_of(*_named_in(context))
    out = folder(str(context.run_config["out"]), context.run_id)
    log(INFO, "fedsim: %s, into %s", experiment.config.name, out)
    wait_for(grid, experiment.config.data.clients, float(context.run_config["wait"]))
    result = run(experiment, out, grid=grid, resume=bool(context.run_config["resume"]))
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
