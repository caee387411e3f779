"""The same experiment as a Flower app, for ``flwr run``: in Flower's simulation or on a real federation.

The configuration's path and the run folder come from Flower's run configuration (``[tool.flwr.app.config]``
in pyproject.toml, or ``flwr run . --run-config 'experiment="my.toml"'``).
"""

from __future__ import annotations

import functools
from pathlib import Path

from flwr.app import Context
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from clients import Environment, client_app
from experiments.experiment import Experiment
from experiments.run import run


@functools.cache
def _experiment(path: str, clients: int | None) -> Experiment:
    overrides = [] if clients is None else [f"data.clients={clients}"]
    found = Path(path)
    return Experiment.load(found if found.exists() else Path(__file__).parent.parent / path, overrides)


def _environment(context: Context) -> Environment:
    clients = context.node_config.get("num-partitions")
    return _experiment(str(context.run_config["experiment"]), int(clients) if clients else None).environment


client: ClientApp = client_app(_environment)
server = ServerApp()


@server.main()
def main(grid: Grid, context: Context) -> None:
    """Run the experiment on the nodes of the grid."""
    clients = len(list(grid.get_node_ids()))
    experiment = _experiment(str(context.run_config["experiment"]), clients or None)
    run(experiment, str(context.run_config["out"]), grid=grid)
