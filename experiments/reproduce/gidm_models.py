"""The diffusion models of the reproduction of ``gidm``: fresh ones, one trained on the training split, its student."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from fedsim import seeding
from fedsim.data import DataSet
from fedsim.diffusion import distillation_loss, fold
from fedsim.diffusion.student import DESCRIPTION, Student, save_student
from fedsim.diffusion.unets import UNet, build
from fedsim.tasks import Occasion
from fedsim.tasks.diffusion import Diffusion

CONSOLE = Console(stderr=True)

TASK = Diffusion(schedule={"name": "sigmoid", "steps": 16}, prediction="v", sampling_steps=8)
"""That of the authors' code: 16 steps of the sigmoid schedule, v-prediction, weighted."""

WIDTHS = (16, 32, 64)
BATCH, RATE = 64, 1e-3
STUDENT_RATE = 5e-4


def network(data: DataSet, seed: int, widths: Sequence[int] = WIDTHS) -> nn.Module:
    """A fresh UNet; 636,465 parameters for 28x28 grey images and the usual widths."""
    return TASK.build("unet", data.input_shape, data.classes, {"widths": tuple(widths)}, seed=seed)


def trained(data: DataSet, steps: int, path: Path, widths: Sequence[int] = WIDTHS) -> dict[str, Tensor]:
    """The state after some steps of Adam on the training split; from the file, if it has been trained before.

    Args:
        data: of which only the training split is used.
        steps: batches of 64; the step size falls as a cosine from 1e-3.
        path: of the state, a safetensors file.
        widths: of the UNet.
    """
    if path.exists():
        return load_file(path)
    torch.set_num_threads(1)
    model = network(data, 0, widths)
    search = torch.optim.Adam(model.parameters(), lr=RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(search, steps)
    draws = seeding.generator(0, "gidm", "prior")
    total = 0.0
    for step in range(steps):
        batch = data.train.subset(torch.randint(len(data.train), (BATCH,), generator=draws))
        posed, targets = TASK.pose(batch.images.float() / 127.5 - 1, batch.labels, Occasion(0, 0, 1, step))
        search.zero_grad()
        loss = TASK.loss(model(posed), targets)
        loss.backward()  # type: ignore[no-untyped-call]
        search.step()
        schedule.step()
        total += loss.item()
        if step % 100 == 99:
            CONSOLE.print(f"prior: step {step + 1} of {steps}, mean loss {total / 100:.4f}")
            total = 0.0
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    save_file(state, path)
    return state


def distilled(data: DataSet, teacher: Mapping[str, Tensor], steps: int, folder: Path, *, count: int) -> None:
    """A student (SFDDM) of the trained model, unless the folder has one; it begins at the teacher's weights.

    Args:
        data: of which only the training split is used.
        teacher: the trained model's state.
        steps: batches of 64; the step size falls as a cosine.
        folder: where it goes.
        count: T', the student's steps.
    """
    if (folder / DESCRIPTION).exists():
        return
    torch.set_num_threads(1)
    given: dict[str, Any] = {"widths": WIDTHS}
    asked, learns = (build("unet", data.input_shape, **given) for _ in range(2))
    assert isinstance(asked, UNet)
    assert isinstance(learns, UNet)
    state = {name.removeprefix("network."): tensor for name, tensor in teacher.items()}
    asked.load_state_dict(state)
    learns.load_state_dict(state)
    mapping = fold(TASK.goal.schedule, count)
    search = torch.optim.Adam(learns.parameters(), lr=STUDENT_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(search, steps)
    draws = seeding.generator(0, "gidm", "student", count)
    total = 0.0
    for step in range(steps):
        x_0 = data.train.subset(torch.randint(len(data.train), (BATCH,), generator=draws)).images.float() / 127.5 - 1
        noise = torch.randn(x_0.shape, generator=draws)
        t = torch.randint(count, (BATCH,), generator=draws)
        loss = distillation_loss(learns.features, asked.features, mapping, x_0, noise, t)
        search.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        search.step()
        schedule.step()
        total += loss.item()
        if step % 100 == 99:
            CONSOLE.print(f"student: step {step + 1} of {steps}, mean loss {total / 100:.4f}")
            total = 0.0
    folder.mkdir(parents=True, exist_ok=True)
    save_student(Student(learns.eval(), mapping, TASK.prediction, "unet", given, data.input_shape), folder)
