"""All registries, by the plural of what they hold."""

from __future__ import annotations

from typing import Any

from fedsim.registry import Registry


def registries() -> dict[str, Registry[Any]]:
    """The registries that ``fedsim list`` shows."""
    from adversary import ATTACKS
    from clients.defences import DEFENCES
    from fedsim.data import DATA, PARTITIONS
    from fedsim.engines import ENGINES
    from fedsim.models import MODELS
    from fedsim.tasks import TASKS
    from server import SELECTORS, STRATEGIES
    from server.contribution import ESTIMATORS

    return {
        "attacks": ATTACKS,
        "selectors": SELECTORS,
        "contributions": ESTIMATORS,
        "strategies": STRATEGIES,
        "tasks": TASKS,
        "models": MODELS,
        "data": DATA,
        "partitions": PARTITIONS,
        "defences": DEFENCES,
        "engines": ENGINES,
    }
