"""How well a reconstruction matches the truth, every victim and every image counted.

The truth is known here and nowhere else. The rules, the same for every attack:

- Images are floats in [0, 1]; reconstructions are clamped to it before anything is measured.
- An attack does not know the order of a batch. One linear assignment a batch, of least total MSE,
  pairs each true image with a reconstruction, and *every* metric is measured under that pairing.
- PSNR is ``10 log10(1 / MSE)`` of each image (peak 1), capped at 100 dB, then averaged over the images;
  so one exact image does not hide the others.
- Nothing is dropped. An image with a NaN or an infinity in it, a missing image, and every image of a
  reconstruction of the wrong shape is scored as the uniform grey guess; surplus images are ignored, so
  that guessing often does not help; a missing label is a wrong label.
- A guess that has seen nothing scores more than 0 dB. Two such guesses stand beside each score: a
  uniform grey of 0.5, and the image's own mean colour, which no flat picture can beat.
"""

from __future__ import annotations

import functools
import logging
import math
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from torch.nn import functional
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure
from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity
from torchvision.models import AlexNet_Weights

from fedsim import seeding
from fedsim.errors import FedsimError

PSNR_CAP = 100.0
"""Decibels given to an exact image, whose PSNR would be infinite."""

GREY = 0.5
"""Value of every pixel of the uniform grey guess."""

NO_LABEL = -1
"""The label of a reconstruction that has none; it equals no class."""

_SSIM_WINDOW = 11
_LPIPS_LEAST = 31  # pixels a side, below which AlexNet's last pooling has nothing to pool
_LPIPS_ENLARGED = 64
_LPIPS_BATCH = 64

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ImageScore:
    """One true image and the reconstruction paired with it.

    Attributes:
        mse, psnr, ssim, lpips: as in ``Scores``, of this image.
        label_true: class of the true image.
        label_found: label of the reconstruction paired with it, ``NO_LABEL`` if there is none.
        failed: whether the grey guess took the reconstruction's place.
    """

    mse: float
    psnr: float
    ssim: float
    lpips: float | None
    label_true: int
    label_found: int
    failed: bool = False


@dataclass(frozen=True)
class Scores:
    """How well one victim's images were reconstructed: means over its images.

    Attributes:
        mse: mean squared error, images in [0, 1].
        psnr: mean of the images' PSNR, in decibels.
        ssim: mean structural similarity.
        lpips: mean perceptual distance (AlexNet), ``None`` where it was not measured.
        label_accuracy: share of the labels found, as counts: ``1 - sum_c |n_c - m_c| / (2 B)``.
        per_image: in the order of the true images.
        assignment: for each true image the index of the reconstruction paired with it; indices beyond
            the last reconstruction stand for grey guesses.
        baseline_psnr: PSNR of a uniform grey of 0.5, averaged as ``psnr`` is.
        baseline_mse: MSE of a uniform grey of 0.5.
        mean_colour_psnr: PSNR of each image's own mean colour, the best that any flat picture can do.
    """

    mse: float
    psnr: float
    ssim: float
    lpips: float | None
    label_accuracy: float
    per_image: tuple[ImageScore, ...]
    assignment: tuple[int, ...]
    baseline_psnr: float
    baseline_mse: float
    mean_colour_psnr: float

    def record(self) -> dict[str, Any]:
        """The fields of a line of ``attacks.jsonl`` that scoring knows."""
        fields = {key: value for key, value in asdict(self).items() if key not in ("per_image", "assignment")}
        return fields | {
            "psnr_each": [image.psnr for image in self.per_image],
            "labels_true": [image.label_true for image in self.per_image],
            "labels_found": [image.label_found for image in self.per_image],
            "failed_images": sum(image.failed for image in self.per_image),
        }


def score(images: Tensor, labels: Tensor, truth_images: Tensor, truth_labels: Tensor, *, lpips: bool = True) -> Scores:
    """Compare what an attack found with what the victim had.

    One linear assignment (``scipy.optimize.linear_sum_assignment``) by MSE, after clamping, pairs the
    images; all metrics are measured under it. See the head of this module for all rules.

    Args:
        images: reconstructions, float [N, C, H, W]; any shape and value is accepted and judged.
        labels: their labels, int [N].
        truth_images: the victim's images, float [B, C, H, W] in [0, 1], B at least 1.
        truth_labels: their labels, int64 [B].
        lpips: whether to measure LPIPS, if AlexNet's weights are on this machine.

    Raises:
        FedsimError: the truth itself is not a batch of images in [0, 1] with one label each.

    >>> truth = torch.full((2, 1, 16, 16), 0.4)
    >>> round(score(truth + 0.1, torch.tensor([3, 1]), truth, torch.tensor([1, 3]), lpips=False).psnr, 3)
    20.0
    """
    truth = _checked_truth(truth_images, truth_labels)
    candidates, failed = scorable(images, truth)
    assignment = _assign(candidates, truth)
    paired = candidates[assignment]
    found = _padded(labels, len(truth))

    mse = (paired - truth).square().mean(dim=(1, 2, 3))
    psnr = _psnr(paired, truth)
    ssim = _ssim(paired, truth)
    perceptual = _lpips(paired, truth) if lpips else None
    grey = torch.full_like(truth, GREY)
    flat = truth.mean(dim=(2, 3), keepdim=True).expand_as(truth)
    per_image = tuple(
        ImageScore(
            mse=float(mse[i]),
            psnr=float(psnr[i]),
            ssim=float(ssim[i]),
            lpips=None if perceptual is None else float(perceptual[i]),
            label_true=int(truth_labels[i]),
            label_found=found[j],
            failed=bool(failed[j]),
        )
        for i, j in enumerate(assignment)
    )
    return Scores(
        mse=float(mse.mean()),
        psnr=float(psnr.mean()),
        ssim=float(ssim.mean()),
        lpips=None if perceptual is None else float(perceptual.mean()),
        label_accuracy=label_accuracy(found, truth_labels.tolist()),
        per_image=per_image,
        assignment=tuple(assignment),
        baseline_psnr=float(_psnr(grey, truth).mean()),
        baseline_mse=float((grey - truth).square().mean()),
        mean_colour_psnr=float(_psnr(flat, truth).mean()),
    )


def scorable(images: Tensor, truth_images: Tensor) -> tuple[Tensor, Tensor]:
    """The reconstructions as they are scored, and which of them are grey guesses in place of failures.

    ``scorable(images, truth)[0][list(scores.assignment)]`` are the reconstructions in the order of the
    true images, whatever the attack returned.

    Args:
        images: reconstructions, float [N, C, H, W], of any shape and value.
        truth_images: float [B, C, H, W].

    Returns:
        float64 [B, C, H, W] in [0, 1], on the CPU, and bool [B].
    """
    batch = len(truth_images)
    candidates = torch.full(truth_images.shape, GREY, dtype=torch.float64)
    failed = torch.ones(batch, dtype=torch.bool)
    if images.ndim == 4 and images.shape[1:] == truth_images.shape[1:]:
        given = images[:batch].detach().to("cpu", torch.float64)
        finite = given.isfinite().flatten(1).all(dim=1).nonzero().flatten()
        candidates[finite] = given[finite].clamp(0, 1)
        failed[finite] = False
    return candidates, failed


def label_accuracy(found: list[int], truth: list[int]) -> float:
    """Share of a batch's labels that were found, order aside: ``1 - sum_c |n_c - m_c| / (2 B)``.

    >>> label_accuracy([1, 1, 2, 3], [1, 2, 3, 3])
    0.75
    """
    n, m = Counter(truth), Counter(found)
    return 1 - sum(abs(n[c] - m[c]) for c in n.keys() | m.keys()) / (2 * len(truth))


def _checked_truth(images: Tensor, labels: Tensor) -> Tensor:
    """The true images in float64 on the CPU."""
    if images.ndim != 4 or images.numel() == 0 or len(images) != len(labels):
        raise FedsimError(
            f"The truth has images of shape {list(images.shape)} and {len(labels)} labels. Scoring needs a batch "
            "[B, C, H, W] of one image or more, with a label each."
        )
    truth = images.detach().to("cpu", torch.float64)
    clamped = truth.clamp(0, 1)
    if not torch.allclose(truth, clamped, rtol=0, atol=1e-4):
        raise FedsimError("The true images are not in [0, 1]. Undo the normalisation before scoring.")
    return clamped


def _padded(labels: Tensor, batch: int) -> list[int]:
    """The first labels, one an image; what is missing is no class at all."""
    given = [int(label) if math.isfinite(label) else NO_LABEL for label in labels.flatten()[:batch].tolist()]
    return given + [NO_LABEL] * (batch - len(given))


def _assign(candidates: Tensor, truth: Tensor) -> list[int]:
    """For each true image the candidate that the assignment of least total MSE gives it."""
    # Not by a matrix product, which loses the small distances that tell a good image from an exact one.
    cost = torch.cdist(truth.flatten(1), candidates.flatten(1), compute_mode="donot_use_mm_for_euclid_dist").square()
    _, columns = linear_sum_assignment(cost.numpy())
    return [int(column) for column in columns]


def _psnr(images: Tensor, truth: Tensor) -> Tensor:
    """PSNR of each image, [B], capped."""
    values = peak_signal_noise_ratio(images, truth, data_range=1.0, reduction="none", dim=(1, 2, 3))
    return values.clamp(max=PSNR_CAP)


def _ssim(images: Tensor, truth: Tensor) -> Tensor:
    """SSIM of each image, [B]: 11x11 Gaussian window of sigma 1.5, where it fits (Wang et al. 2004).

    The mean is over channels and those pixels whose window lies in the image, as in scikit-image and
    the authors' code. Images smaller than the window are first enlarged, each pixel repeated.
    """
    repeat = math.ceil(_SSIM_WINDOW / min(truth.shape[-2:]))
    if repeat > 1:
        images, truth = (x.repeat_interleave(repeat, -2).repeat_interleave(repeat, -1) for x in (images, truth))
    everywhere: Tensor = structural_similarity_index_measure(
        images, truth, sigma=1.5, kernel_size=_SSIM_WINDOW, reduction="none", data_range=1.0, return_full_image=True
    )[1]
    edge = _SSIM_WINDOW // 2
    return everywhere[..., edge:-edge, edge:-edge].mean(dim=(1, 2, 3))


def _lpips(images: Tensor, truth: Tensor) -> Tensor | None:
    """LPIPS (AlexNet; Zhang et al. 2018) of each image, [B], or ``None`` without the weights.

    Grey images are repeated over three channels. Images of fewer than 31 pixels a side, too small for
    AlexNet, are enlarged to 64 (bilinear); so values compare only between images of the same size.
    """
    network = _lpips_network()
    if network is None or truth.shape[1] not in (1, 3):
        return None
    images, truth = _for_alexnet(images), _for_alexnet(truth)
    with torch.no_grad():
        parts: list[Tensor] = [
            network(x, y, normalize=True).flatten() for x, y in zip(_chunks(images), _chunks(truth), strict=True)
        ]
    return torch.cat(parts)


def _for_alexnet(images: Tensor) -> Tensor:
    """float32 [B, 3, H, W] of at least AlexNet's least size."""
    images = images.float().expand(-1, 3, -1, -1)
    least = min(images.shape[-2:])
    if least >= _LPIPS_LEAST:
        return images
    size = [round(side * _LPIPS_ENLARGED / least) for side in images.shape[-2:]]
    return functional.interpolate(images, size=size, mode="bilinear", align_corners=False).clamp(0, 1)


def _chunks(images: Tensor) -> list[Tensor]:
    return [images[i : i + _LPIPS_BATCH] for i in range(0, len(images), _LPIPS_BATCH)]


def lpips_weights() -> Path:
    """Where torchvision keeps AlexNet's weights, whether or not they are there."""
    return Path(torch.hub.get_dir()) / "checkpoints" / Path(AlexNet_Weights.IMAGENET1K_V1.url).name


@functools.cache
def _lpips_network() -> nn.Module | None:
    """The network behind LPIPS, loaded once; never downloaded."""
    path = lpips_weights()
    if not path.is_file():
        _log.warning(
            "LPIPS is not measured: AlexNet's weights are not at %s (%s)", path, AlexNet_Weights.IMAGENET1K_V1.url
        )
        return None
    # AlexNet draws weights from the global generator before it loads the trained ones.
    with seeding.borrowed_global_state(0, "lpips"):
        network: nn.Module = LearnedPerceptualImagePatchSimilarity(net_type="alex").net
    return network.eval()
