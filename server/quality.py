"""How good drawn images are, by features of them: the Frechet distance, precision and recall."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance

MEASURES = ("frechet_distance", "precision", "recall")
BATCH = 500
"""Images whose features are computed at once."""


class Quality:
    """Compares drawn images with real ones.

    ``frechet_distance`` is the squared one between Gaussians of the features' means and covariances, ``|m - m'|^2 +
    tr(C + C' - 2 (C C')^1/2)``; it is no FID unless the features are Inception's, and only numbers of the same
    features, and of as many images, compare. ``precision`` is the share of drawn images within the real ones'
    manifold, ``recall`` that of real ones within the drawn ones'; a manifold is the union of balls around images that
    reach to their k-th nearest neighbours (Kynkaanniemi et al., NeurIPS 2019, arXiv:1904.06991).

    Args:
        features: of images in [0, 1], float32 [N, C, H, W] to [N, D], D at least 1; in evaluation mode.
        real: images to compare with, float32 [N, C, H, W] in [0, 1], more than ``neighbours``.
        neighbours: k.
    """

    def __init__(self, features: nn.Module, real: Tensor, neighbours: int = 3) -> None:
        self._features, self._neighbours = features, neighbours
        self._real = self._of(real)
        self._radii = _radii(self._real, neighbours)

    def __call__(self, drawn: Tensor) -> dict[str, float]:
        """All three, by name, of images in [0, 1], float32 [M, C, H, W], more than ``neighbours``."""
        found = self._of(drawn)
        apart = torch.cdist(found, self._real)
        own = _radii(found, self._neighbours)
        return {
            "frechet_distance": frechet_distance(self._real, found),
            "precision": float((apart <= self._radii).any(dim=1).float().mean()),
            "recall": float((apart <= own[:, None]).any(dim=0).float().mean()),
        }

    @torch.no_grad()
    def _of(self, images: Tensor) -> Tensor:
        return torch.cat([self._features(part) for part in torch.split(images, BATCH)]).double()


def frechet_distance(first: Tensor, second: Tensor) -> float:
    """The squared Frechet distance of Gaussians fitted to features, [N, D] and [M, D], by torchmetrics."""
    metric = FrechetInceptionDistance(feature=_Given(first.shape[1]))
    metric.update(first, real=True)
    metric.update(second, real=False)
    return float(metric.compute())


class _Given(nn.Module):
    """Features as they are."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.num_features = width

    def forward(self, features: Tensor) -> Tensor:
        return features


def _radii(features: Tensor, neighbours: int) -> Tensor:
    """Each one's distance to its k-th nearest neighbour among the others, [N]."""
    return torch.cdist(features, features).kthvalue(neighbours + 1, dim=1).values
