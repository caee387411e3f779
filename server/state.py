"""What a strategy remembers between rounds, to be saved and restored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from flwr.serverapp.strategy import Strategy

from fedsim.state import encodable
from server.wrapping import Wrapped


@runtime_checkable
class Stateful(Protocol):
    """A strategy that says itself what it remembers."""

    def state_dict(self) -> Mapping[str, Any]:
        """All that later rounds depend on, as ``fedsim.state`` can hold it."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what ``state_dict`` gave."""
        ...


def snapshot(strategy: Strategy) -> list[Any]:
    """What each layer of a strategy remembers, from the outermost wrapper inwards.

    A layer that is not ``Stateful`` is described by its attributes, as far as they are data; Flower's
    strategies keep their moments there.
    """
    layers: list[Any] = []
    for layer in _layers(strategy):
        if isinstance(layer, Stateful):
            layers.append(dict(layer.state_dict()))
        elif isinstance(layer, Wrapped):
            layers.append({})
        else:
            layers.append({key: value for key, value in vars(layer).items() if encodable(value)})
    return layers


def restore(strategy: Strategy, layers: list[Any]) -> None:
    """Give each layer of an equally built strategy what ``snapshot`` took."""
    for layer, state in zip(_layers(strategy), layers, strict=True):
        if isinstance(layer, Stateful):
            layer.load_state_dict(state)
        else:
            for key, value in state.items():
                setattr(layer, key, value)


def _layers(strategy: Strategy) -> list[Strategy]:
    found = [strategy]
    while isinstance(strategy, Wrapped):
        strategy = strategy.inner
        found.append(strategy)
    return found
