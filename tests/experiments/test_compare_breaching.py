"""What the comparison with breaching hands over, and what its page claims."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from experiments.reproduce.breaching_page import write
from experiments.reproduce.breaching_side import network
from experiments.reproduce.compare_breaching import MODELS, _layers
from fedsim import models
from fedsim.errors import FedsimError


@pytest.mark.parametrize("model", MODELS)
def test_the_network_built_from_its_description_is_the_same_function(model: str) -> None:
    """Breaching copies parameters and buffers by position, as here."""
    own = models.builder(model, (3, 32, 32), 10, seed=1)()
    other = network(_layers(own))
    with torch.no_grad():
        for mine, theirs in ((own.parameters(), other.parameters()), (own.buffers(), other.buffers())):
            for source, copy in zip(mine, theirs, strict=True):
                copy.copy_(source)
    images = torch.rand(2, 3, 32, 32)
    assert other.eval()(images).equal(own.eval()(images))


def test_a_layer_without_description_is_refused() -> None:
    with pytest.raises(FedsimError, match="Tanh"):
        _layers(nn.Sequential(nn.Flatten(), nn.Tanh()))


@pytest.mark.parametrize(
    ("psnr", "seconds", "verdict"), [(30.0, 5.0, "seconds: reached"), (30.0, 20.0, "not reached"), (10.0, 5.0, "not")]
)
def test_the_page_says_whether_the_quality_came_in_a_tenth_of_the_time(
    tmp_path: Path, psnr: float, seconds: float, verdict: str
) -> None:
    theirs: dict[str, Any] = {"psnr": 25.0, "cpu_seconds": 100.0, "seconds": 100.0}
    tried = [{"psnr": psnr, "cpu_seconds": seconds, "seconds": seconds, "iterations": 50}]
    record = {"part": "quality", "model": "cnn", "victim": 0, "iterations": 24_000, "breaching": theirs, "tried": tried}
    write([record], tmp_path / "page.md")
    (target,) = [line for line in (tmp_path / "page.md").read_text().splitlines() if line.startswith("Target")]
    assert verdict in target
