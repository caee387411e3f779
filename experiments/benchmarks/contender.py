"""Who takes part: what a contender has to do, and where each one is."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

from experiments.benchmarks.workloads import Workload
from fedsim.errors import unknown
from fedsim.protocol import Arrays


class Contender(Protocol):
    """Somebody's simulator, set up for a workload. It computes with one thread a worker."""

    def round(self) -> None:
        """Train one round more."""

    def arrays(self) -> Arrays:
        """The global arrays after the last round, with the names of the model's ``state_dict``."""

    def close(self) -> None:
        """End everything that was started."""


@dataclass(frozen=True)
class Entry:
    """Where a contender is.

    Attributes:
        title: for the tables.
        factory: as ``module:callable``; takes the workload and the parameters.
        parameters: of this entry.
        needs: packages that may not be there, each with the remedy.
    """

    title: str
    factory: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    needs: Mapping[str, str] = field(default_factory=dict)

    def missing(self) -> str | None:
        """Why it cannot take part here, or ``None``."""
        for package, remedy in self.needs.items():
            if importlib.util.find_spec(package) is None:
                return f"{package} is not installed: {remedy}"
        return None

    def make(self, workload: Workload) -> Contender:
        """Set up for a workload."""
        module, name = self.factory.split(":")
        factory = cast("Callable[..., Contender]", getattr(importlib.import_module(module), name))
        return factory(workload, **self.parameters)


_HERE = "experiments.benchmarks"
_RAY = {"ray": "pip install 'fedsim[bench]'"}
_PFL = {"pfl": "pip install 'fedsim[bench]', with a Python before 3.13"}

CONTENDERS: Mapping[str, Entry] = {
    "bare": Entry("bare PyTorch loop, 1 process", f"{_HERE}.bare:BareLoop"),
    "pool": Entry("shared-memory pool, 2 processes", f"{_HERE}.pool:SharedPool", {"workers": 2}),
    "local-1": Entry("fedsim `local`, 1 worker", f"{_HERE}.engine:Engine", {"workers": 1}),
    "local-2": Entry("fedsim `local`, 2 workers", f"{_HERE}.engine:Engine", {"workers": 2}),
    "ray-2": Entry("fedsim `ray`, 2 actors", f"{_HERE}.engine:Engine", {"name": "ray", "workers": 2}, _RAY),
    "flower": Entry("Flower's Ray simulation, 2 actors", f"{_HERE}.flower_ray:FlowerSimulation", {"workers": 2}, _RAY),
    "pfl": Entry("Apple's pfl, 1 process", f"{_HERE}.apple_pfl:ApplePFL", {}, _PFL),
}


def entry(name: str) -> Entry:
    """The contender of a name.

    Raises:
        FedsimError: there is none.
    """
    if name not in CONTENDERS:
        raise unknown("contender", name, CONTENDERS)
    return CONTENDERS[name]
