"""Measures of drawn images: closed forms, a second implementation, and the order of better and worse images."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from torch import nn

from fedsim.data import load
from server.features import classifier_features, scaled
from server.quality import Quality, frechet_distance


def test_the_distance_is_the_closed_form_of_gaussians() -> None:
    """For features that are moved and scaled, ``|m - m'|^2 + (s - s')^2`` a dimension."""
    x = torch.randn(4_000, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    moved = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    spread = x.std(dim=0)
    y = (x - x.mean(0)) * 3 + x.mean(0) + moved
    covariance = np.cov(x.numpy().T)
    expected = float(moved.square().sum()) + float(np.trace(covariance)) * (1 + 9 - 6)
    assert frechet_distance(x, y) == pytest.approx(expected, rel=1e-6)
    assert frechet_distance(x, x) == pytest.approx(0.0, abs=1e-6 * float(spread.square().sum()))


def test_the_distance_is_that_of_a_matrix_square_root() -> None:
    draws = np.random.default_rng(1)
    x, y = draws.normal(size=(300, 8)) @ draws.normal(size=(8, 8)), draws.normal(size=(200, 8)) + 0.3
    a, b = np.cov(x.T), np.cov(y.T)
    gap = x.mean(0) - y.mean(0)
    expected = gap @ gap + np.trace(a + b - 2 * np.real(sqrtm(a @ b)))
    assert frechet_distance(torch.tensor(x), torch.tensor(y)) == pytest.approx(expected, rel=1e-6)


def test_precision_and_recall_tell_what_is_missing_from_what_is_wrong() -> None:
    """Two clusters are real; one of them drawn has all precision and half of the recall, and the other way round."""
    draws = torch.Generator().manual_seed(2)
    left, right, far = (torch.randn(60, 1, 1, 4, generator=draws) * 0.1 + at for at in (-5, 5, 50))
    one, two = Quality(nn.Flatten(), torch.cat([left, right])), Quality(nn.Flatten(), left)
    again = left + 0.001
    missing = one(again)
    assert missing["precision"] == 1.0
    assert missing["recall"] == pytest.approx(0.5, abs=0.02)
    wrong = two(torch.cat([again, far]))
    assert wrong["precision"] == 0.5
    assert wrong["recall"] == 1.0


def test_by_features_of_a_classifier_worse_images_are_further_away() -> None:
    data = load("fashion_mnist_small", train_size=2_000, test_size=1_000)
    features = classifier_features(data.train, seed=0)
    images = scaled(data.test.images)
    judge = Quality(features, images[:500])
    noise = torch.rand(500, *images.shape[1:], generator=torch.Generator().manual_seed(3))
    found = {
        share: judge((1 - share) * images[500:] + share * noise)["frechet_distance"] for share in (0.0, 0.2, 0.5, 1.0)
    }
    assert sorted(found, key=lambda share: found[share]) == [0.0, 0.2, 0.5, 1.0]
    assert found[1.0] > 20 * found[0.0]
    (first, again) = (classifier_features(data.train, seed=0).state_dict() for _ in range(2))
    assert all(tensor.equal(again[name]) for name, tensor in first.items())
