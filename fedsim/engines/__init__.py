"""Engines: Flower Grids that carry messages to simulated clients and bring their replies."""

from __future__ import annotations

from flwr.serverapp import Grid

from fedsim.registry import Registry

ENGINES: Registry[Grid] = Registry("engine", "fedsim.engines")

from fedsim.engines.local import LocalGrid  # noqa: E402  (registers itself)

__all__ = ["ENGINES", "LocalGrid"]
