"""What is compared in the reproduction of SFDDM: a teacher with few and many steps, its students, and their samples."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from rich.console import Console
from safetensors.torch import load_file, save_file
from torch import Tensor

from experiments.distilling import distill, teacher_of
from experiments.lessons import Lessons
from fedsim import seeding
from fedsim.diffusion import ddim, denoiser
from fedsim.diffusion.student import load_student

CONSOLE = Console(stderr=True)
BATCH = 64
FIRST = 64
"""Starts by which a student is judged after its first epoch."""
POSITIONS = 9
"""Between two starts, both included."""

Sampler = Callable[[Tensor], Tensor]
"""Images in [-1, 1] from standard normal numbers, both [N, C, H, W]."""


@dataclass(frozen=True)
class Cell:
    """Who draws, and by how many steps.

    Attributes:
        steps: of DDIM, each one call of the network.
        lessons: of a student; ``None`` for the teacher itself.
    """

    steps: int
    lessons: Lessons | None = None

    def key(self) -> str:
        """The name under which results are kept."""
        if self.lessons is None:
            return f"teacher-{self.steps}"
        return f"{self.lessons.target}-{self.lessons.start}-{self.steps}"


def teachers(total: int, few: tuple[int, ...]) -> list[Cell]:
    """The teacher with all its steps, and with fewer."""
    return [Cell(steps) for steps in dict.fromkeys((total, *few))]


def students(few: tuple[int, ...], updates: int, *, images: int) -> list[Cell]:
    """The students at each number of steps, the most important ones first.

    Args:
        few: numbers of steps.
        updates: of each student, in whole epochs.
        images: that the server has.
    """
    shared = Lessons(learning_rate=5e-4, ema=0.98, images=images)
    epochs = max(1, round(updates / -(-images // shared.batch_size)))
    published = replace(shared, epochs=epochs)
    perfect = replace(shared, epochs=1, images=BATCH, start="teacher")
    followed = replace(published, target="trajectory", start="teacher")
    by_trajectory = [replace(followed, steps=n, substeps=min(8, max(2, 40 // n))) for n in few]
    return [
        Cell(n, lessons)
        for n, led in zip(few, by_trajectory, strict=True)
        for lessons in (led, replace(perfect, steps=n), replace(published, steps=n))
    ]


def starts(count: int, shape: tuple[int, ...], seed: int) -> Tensor:
    """Standard normal numbers, [count + 9, ...]; the last nine go evenly from the first to the second in a line."""
    own = torch.randn(count, *shape, generator=seeding.generator(seed, "sfddm", "starts"))
    share = torch.linspace(0, 1, POSITIONS).reshape(-1, *[1] * len(shape))
    return torch.cat([own, own[:1].lerp(own[1:2], share)])


def sampler(cell: Cell, run_folder: Path, students_folder: Path) -> Sampler:
    """Who draws; a student is taught first, if it has not been."""
    if cell.lessons is not None:
        distill(run_folder, students_folder / cell.key(), cell.lessons, told=_told(cell))
        return load_student(students_folder / cell.key()).sample
    _, task, teacher = teacher_of(run_folder)
    schedule = task.goal.schedule
    estimate, steps = denoiser(teacher, schedule, task.prediction, bound=1.0), schedule.spaced(cell.steps).flip(0)
    return lambda start: ddim(estimate, schedule, start, steps)


def after_one_epoch(cell: Cell, run_folder: Path, students_folder: Path, start: Tensor) -> Tensor | None:
    """What a student draws in [0, 1] after its first epoch; ``None`` where that has passed, or for a teacher."""
    folder = students_folder / cell.key()
    if cell.lessons is None or (folder / "checkpoint").is_dir():
        return None
    student = distill(run_folder, folder, replace(cell.lessons, epochs=1), told=_told(cell))
    return drawn(student.sample, start[:FIRST])[0]


@torch.no_grad()
def drawn(sample: Sampler, start: Tensor) -> tuple[Tensor, float]:
    """Images in [0, 1], and CPU seconds of one."""
    began = time.process_time()
    images = torch.cat([sample(part) for part in torch.split(start, BATCH)])
    return (images + 1).div(2).clamp(0, 1), (time.process_time() - began) / len(start)


def keep(images: Tensor, path: Path) -> Tensor:
    """Write images down beside the runs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({"images": images}, path)
    return images


def kept(path: Path) -> Tensor:
    """Images that were written down."""
    return load_file(path)["images"]


def _told(cell: Cell) -> Callable[[int, float], None]:
    def tell(epoch: int, loss: float) -> None:
        CONSOLE.print(f"{cell.key()}: epoch {epoch}, loss {loss:.4f}", highlight=False)

    return tell
