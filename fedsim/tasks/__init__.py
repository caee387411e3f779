"""What clients train, by name: how networks are built and fed, their loss, and how the result is judged."""

from __future__ import annotations

from fedsim.registry import Registry
from fedsim.tasks.task import Draws, Generative, Normalisation, Occasion, Task

TASKS: Registry[Task] = Registry("task", "fedsim.tasks", imports=True)

from fedsim.tasks import classification, diffusion  # noqa: E402, F401  (each registers itself)

__all__ = ["TASKS", "Draws", "Generative", "Normalisation", "Occasion", "Task"]
