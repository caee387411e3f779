"""Networks: shapes, seeds, and what the papers say of them."""

import pytest
import torch
from torch import nn

from fedsim import models
from fedsim.errors import FedsimError

NAMES = ["cnn", "cnn6", "cnn6_d", "convnet", "convnet8", "lenet", "mlp", "resnet18", "resnet20"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32)])
def test_logits_have_a_column_a_class(name: str, shape: tuple[int, int, int]) -> None:
    assert models.build(name, shape, 7)(torch.rand(2, *shape)).shape == (2, 7)


@pytest.mark.parametrize("name", NAMES)
def test_weights_depend_on_the_seed_alone(name: str) -> None:
    def flat(seed: int) -> torch.Tensor:
        torch.rand(seed + 1)  # whatever was drawn before
        return nn.utils.parameters_to_vector(models.build(name, (1, 28, 28), 10, seed=seed).parameters())

    assert torch.equal(flat(0), flat(0))
    assert not torch.equal(flat(0), flat(1))


def test_lenet_is_that_of_dlg() -> None:
    lenet = models.build("lenet", (3, 32, 32), 100)
    weights = nn.utils.parameters_to_vector(lenet.parameters()).detach()
    assert len(weights) == 3 * 12 * 25 + 12 + 2 * (12 * 12 * 25 + 12) + 768 * 100 + 100
    assert weights.min() >= -0.5
    assert weights.max() <= 0.5
    assert abs(float(weights.std()) - 1 / 12**0.5) < 0.01  # a uniform variable of width 1
    assert models.build("lenet", (1, 28, 28), 10).fc.in_features == 588  # type: ignore[union-attr]


def test_convnet8_has_the_eight_blocks_of_the_authors_code() -> None:
    convolutions = [
        m for m in models.build("convnet8", (3, 32, 32), 10, width=64).modules() if isinstance(m, nn.Conv2d)
    ]
    assert [c.out_channels for c in convolutions] == [64, 128, 128, 256, 256, 256, 256, 256]


def test_resnet20_has_its_published_size() -> None:
    """0.27 million parameters (He et al. 2016, table 6)."""
    count = sum(p.numel() for p in models.build("resnet20", (3, 32, 32), 10).parameters())
    assert 0.265e6 < count < 0.275e6


def test_what_cannot_be_built_is_explained() -> None:
    with pytest.raises(FedsimError, match=r"convnet8.*cannot be built"):
        models.build("convnet8", (1, 8, 8), 10)
    with pytest.raises(FedsimError, match=r"torch\.nn\.Module"):
        models.build("builtins:print", (1, 8, 8), 10)
