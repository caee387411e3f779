"""Engines: Flower Grids that carry messages to simulated clients and bring their replies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

from flwr.app import RecordDict
from flwr.serverapp import Grid

from fedsim.registry import Registry

ENGINES: Registry[Grid] = Registry("engine", "fedsim.engines")


@runtime_checkable
class Closing(Protocol):
    """An engine that holds workers, which it ends when closed."""

    def close(self) -> None:
        """End the workers."""
        ...


@runtime_checkable
class Remembering(Protocol):
    """An engine that holds what its clients keep between messages."""

    def states(self) -> Mapping[int, RecordDict]:
        """What each client keeps, for a checkpoint."""
        ...

    def restore(self, states: Mapping[int, RecordDict]) -> None:
        """Give it back."""
        ...


from fedsim.engines.local import LocalGrid  # noqa: E402  (registers itself)
from fedsim.engines.ray import RayGrid  # noqa: E402  (registers itself; imports Ray itself only when used)

__all__ = ["ENGINES", "Closing", "LocalGrid", "RayGrid", "Remembering"]
