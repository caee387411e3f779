"""Steps of gradients of diffusion losses, read from their time embedding."""

from __future__ import annotations

from typing import cast

import pytest
import torch
from torch import Tensor, nn

from adversary.diffusion.steps import read_step, read_steps
from fedsim.diffusion import unets
from fedsim.diffusion.objective import Objective
from fedsim.diffusion.parametrisation import Prediction
from fedsim.diffusion.schedules import cosine, sigmoid
from fedsim.errors import FedsimError


def network() -> nn.Module:
    return unets.build("unet", (1, 8, 8), widths=(16, 16), attention=False, seed=3)


def gradients(net: nn.Module, objective: Objective, t: list[int], seed: int = 0) -> dict[str, Tensor]:
    source = torch.Generator().manual_seed(seed)
    dtype = next(net.parameters()).dtype
    images = torch.rand(len(t), 1, 8, 8, generator=source, dtype=dtype) * 2 - 1
    noise = torch.randn(len(t), 1, 8, 8, generator=source, dtype=dtype)
    names, parameters = zip(*net.named_parameters(), strict=True)
    loss = objective(net, images, noise, torch.tensor(t))
    return dict(zip(names, torch.autograd.grad(loss, parameters), strict=True))


@pytest.mark.parametrize("prediction", ["epsilon", "v"])
def test_every_step_of_a_short_schedule_is_read(prediction: str) -> None:
    objective = Objective(sigmoid(16), cast(Prediction, prediction))
    net = network()
    read = [read_step(net, gradients(net, objective, [t], seed=t), 16) for t in range(16)]
    assert read == list(range(16))


def test_steps_of_a_long_schedule_are_read_across_its_range() -> None:
    objective, net = Objective(cosine(1000), "epsilon"), network()
    wanted = [*range(0, 1000, 37), 999]
    assert [read_step(net, gradients(net, objective, [t], seed=t), 1000) for t in wanted] == wanted


def test_all_steps_of_four_examples_are_in_the_row_space() -> None:
    objective, net = Objective(sigmoid(16), "epsilon"), network().double()
    for seed, t in enumerate([[0, 3, 7, 15], [1, 2, 8, 9], [4, 5, 6, 14]]):
        each = gradients(net, objective, t, seed)
        found, rank = read_steps(net, each, 16)
        assert rank == 4
        assert found == t


def test_a_network_without_time_embedding_is_refused() -> None:
    with pytest.raises(FedsimError, match="time_proj"):
        read_step(nn.Linear(2, 2), {}, 16)
