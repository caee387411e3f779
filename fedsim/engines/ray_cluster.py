"""Ray itself: finding it, joining a cluster or starting one here, and what actors need to find the code."""

from __future__ import annotations

import logging
import math
import os
import socket
import sys
from pathlib import Path
from typing import Any

from fedsim.errors import FedsimError, invalid


def import_ray() -> Any:
    """The package ``ray``, which is an extra.

    Raises:
        FedsimError: it is not installed.
    """
    try:
        import ray
    except ImportError as error:
        raise FedsimError("The engine 'ray' needs Ray, which is not installed. Run: pip install fedsim[ray]") from error
    return ray


def connect(ray: Any, address: str | None, cpus: float, object_store_mb: int) -> bool:
    """Join the cluster at an address, or start Ray on this machine; whether there was anything to do.

    A Ray that this process uses already is used as it is.

    Args:
        ray: the package.
        address: of a cluster, as ``ray.init`` takes it; ``None`` starts Ray here.
        cpus: cores that a Ray started here believes to have.
        object_store_mb: size of its object store in megabytes.

    Raises:
        FedsimError: nobody answers at the address.
    """
    if address is not None:
        _refuse_silence(address)
    if ray.is_initialized():
        return False
    quiet = {"logging_level": logging.ERROR, "log_to_driver": False}
    if address is not None:
        try:
            ray.init(address, **quiet)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise _nothing_at(address, error) from error
        return True
    for name, value in (
        ("RAY_USAGE_STATS_ENABLED", "0"),  # nothing is reported to anyone
        ("RAY_prestart_worker_first_driver", "0"),  # the actors' processes have an environment of their own,
        ("RAY_enable_worker_prestart", "0"),  # so those that Ray starts in advance would idle
        ("RAY_worker_niceness", "0"),  # else attacks in processes of their own would push training aside
        ("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0"),  # else actors that reserve no GPU could not see any
    ):
        os.environ.setdefault(name, value)
    ray.init(
        "local",
        num_cpus=max(1, math.ceil(cpus)),
        object_store_memory=object_store_mb * 2**20,
        include_dashboard=False,
        **quiet,
    )
    return True


def _refuse_silence(address: str) -> None:
    """Ray itself would try for minutes to reach a port where nobody listens."""
    host, _, port = address.rpartition(":")
    if "/" not in host and port.isdigit():
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
        except OSError as error:
            raise _nothing_at(address, error) from error


def _nothing_at(address: str, error: Exception) -> FedsimError:
    problem = f"there is no Ray cluster ({str(error).splitlines()[0]})"
    return invalid("engine.address", address, problem, "Start one with: ray start --head")


def check_room(ray: Any, workers: int, cpus: float) -> None:
    """Actors that no node has room for would be waited for in vain.

    Raises:
        FedsimError: the cluster has fewer cores than the actors reserve.
    """
    there = ray.cluster_resources().get("CPU", 0.0)
    if workers * cpus > there:
        raise invalid(
            "engine.workers",
            workers,
            f"the actors would reserve {workers * cpus:g} cores, and Ray has {there:g}",
            "Use fewer, or lower engine.cpus (0 lets any number of actors share the cores)",
        )


def environment_variables() -> dict[str, str]:
    """What an actor's process needs: one compute thread, and the folders the code is imported from here.

    Ray carries the working directory and the script's folder alone. Folders of the Python installation
    are left out, as each node has its own.
    """
    installed = [Path(prefix).resolve() for prefix in (sys.prefix, sys.base_prefix)]
    folders = [Path(entry or ".").resolve() for entry in sys.path]
    carried = [str(f) for f in folders if not any(f.is_relative_to(prefix) for prefix in installed)]
    path = os.pathsep.join([*carried, "${PYTHONPATH}"])  # Ray fills in what the node has already
    return {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
