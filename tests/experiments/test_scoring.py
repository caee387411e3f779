"""Scores against closed forms, a second implementation, and hostile reconstructions."""

from __future__ import annotations

import math

import pytest
import torch
from skimage.metrics import structural_similarity
from torch import Tensor

from experiments import scoring
from experiments.scoring import NO_LABEL, label_accuracy, scorable, score
from fedsim import seeding
from fedsim.errors import FedsimError


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=seeding.generator(seed, "test", *shape))


def pictures(batch: int, channels: int = 1, side: int = 28) -> Tensor:
    """Smooth pictures, one different from the other."""
    y, x = torch.meshgrid(torch.linspace(0, 1, side), torch.linspace(0, 1, side), indexing="ij")
    waves = [torch.sin((i + 2) * x * 3 + i) * torch.cos((c + 1) * y * 4) for i in range(batch) for c in range(channels)]
    return (0.5 + 0.5 * torch.stack(waves)).reshape(batch, channels, side, side)


@pytest.mark.parametrize(("difference", "decibels"), [(0.1, 20.0), (0.01, 40.0), (0.5, 6.0206), (0.001, 60.0)])
def test_psnr_of_a_known_difference(difference: float, decibels: float) -> None:
    truth = torch.full((2, 3, 16, 16), 0.25)
    found = score(truth + difference, torch.tensor([0, 1]), truth, torch.tensor([0, 1]), lpips=False)
    assert found.psnr == pytest.approx(decibels, abs=1e-2)
    assert found.mse == pytest.approx(difference**2, rel=1e-4)


def test_psnr_is_averaged_over_images_not_over_pixels() -> None:
    truth = torch.zeros(2, 1, 16, 16)
    guess = torch.stack([torch.full((1, 16, 16), 0.1), torch.full((1, 16, 16), 0.001)])
    found = score(guess, torch.tensor([0, 0]), truth, torch.tensor([0, 0]), lpips=False)
    assert found.psnr == pytest.approx((20 + 60) / 2, abs=1e-3)


def test_an_exact_image_scores_the_cap_and_hides_no_other() -> None:
    truth = torch.stack([torch.full((1, 16, 16), 0.2), torch.full((1, 16, 16), 0.8)])
    guess = truth.clone()
    guess[1] += 0.1
    found = score(guess, torch.tensor([4, 5]), truth, torch.tensor([4, 5]), lpips=False)
    assert [image.psnr for image in found.per_image] == pytest.approx([100.0, 20.0], abs=1e-3)
    assert found.per_image[0].ssim == pytest.approx(1)


@pytest.mark.parametrize("lpips", [False, True])
def test_the_order_of_a_batch_does_not_matter(lpips: bool) -> None:
    truth = pictures(6, channels=3)
    guess = (truth + 0.2 * noise(*truth.shape)).clamp(0, 1)
    labels = torch.arange(6)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    straight = score(guess, labels, truth, labels, lpips=lpips)
    shuffled = score(guess[order], labels[order], truth, labels, lpips=lpips)
    assert straight.assignment == tuple(range(6))
    assert shuffled.per_image == straight.per_image
    assert shuffled.record() == straight.record()
    assert torch.equal(scorable(guess[order], truth)[0][list(shuffled.assignment)], guess.double())


def test_the_assignment_is_the_best_for_the_batch_not_image_by_image() -> None:
    """Both images are nearest to the first guess; greed would leave 0.0 with 1.0."""
    truth = torch.stack([torch.full((1, 11, 11), 0.5), torch.full((1, 11, 11), 0.0)])
    guess = torch.stack([torch.full((1, 11, 11), 0.4), torch.full((1, 11, 11), 1.0)])
    found = score(guess, torch.tensor([0, 1]), truth, torch.tensor([1, 0]), lpips=False)
    assert found.assignment == (1, 0)
    assert found.mse == pytest.approx((0.5**2 + 0.4**2) / 2)
    assert [image.label_found for image in found.per_image] == [1, 0]


def test_reconstructions_are_clamped_before_anything_is_measured() -> None:
    truth = torch.stack([torch.zeros(1, 16, 16), torch.ones(1, 16, 16)])
    found = score(truth * 9 - 4, torch.tensor([0, 1]), truth, torch.tensor([0, 1]), lpips=False)
    assert found.psnr == 100.0


@pytest.mark.parametrize("channels", [1, 3])
def test_ssim_agrees_with_scikit_image(channels: int) -> None:
    truth = pictures(3, channels)
    guess = (truth + 0.3 * noise(*truth.shape) - 0.15).clamp(0, 1)
    found = score(guess, torch.arange(3), truth, torch.arange(3), lpips=False)
    for i, image in enumerate(found.per_image):
        expected = structural_similarity(
            truth[i].double().numpy(),
            guess[i].double().numpy(),
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            data_range=1.0,
            channel_axis=0,
        )
        assert image.ssim == pytest.approx(expected, abs=1e-6)
        assert 0.1 < image.ssim < 0.95


@pytest.mark.parametrize("side", [1, 5, 10])
def test_images_smaller_than_the_window_are_scored(side: int) -> None:
    truth = noise(2, 1, side, side)
    same = score(truth, torch.tensor([0, 1]), truth, torch.tensor([0, 1]))
    other = score(1 - truth, torch.tensor([0, 1]), truth, torch.tensor([0, 1]))
    assert same.ssim == pytest.approx(1)
    assert other.ssim < 0.9


def test_label_accuracy_counts_labels_and_ignores_their_order() -> None:
    assert label_accuracy([3, 1, 2], [1, 2, 3]) == 1
    assert label_accuracy([1, 1, 2, 3], [1, 2, 3, 3]) == 0.75
    assert label_accuracy([7, 7], [1, 2]) == 0
    truth = pictures(4)
    found = score(truth, torch.tensor([5, 5, 5, 2]), truth, torch.tensor([5, 5, 0, 2]), lpips=False)
    assert found.label_accuracy == 0.75
    assert sum(image.label_found == image.label_true for image in found.per_image) == 3


def test_the_grey_and_the_mean_colour_baselines_follow_from_the_pixels() -> None:
    """A constant at the mean scores -20 log10(std); a constant elsewhere adds the squared offset."""
    truth = pictures(5)
    mean, variance = truth.mean(dim=(1, 2, 3)), truth.var(dim=(1, 2, 3), unbiased=False)
    found = score(noise(5, 1, 28, 28), torch.arange(5), truth, torch.arange(5), lpips=False)
    assert found.mean_colour_psnr == pytest.approx(float((-10 * variance.log10()).mean()), abs=1e-4)
    offset = variance + (mean - 0.5) ** 2
    assert found.baseline_psnr == pytest.approx(float((-10 * offset.log10()).mean()), abs=1e-4)
    assert found.baseline_mse == pytest.approx(float(offset.mean()), abs=1e-6)
    grey = score(torch.full_like(truth, 0.5), torch.arange(5), truth, torch.arange(5), lpips=False)
    assert grey.psnr == pytest.approx(found.baseline_psnr)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_an_image_that_is_not_finite_is_scored_as_the_grey_guess(bad: float) -> None:
    truth = pictures(3)
    guess = truth.clone()
    guess[1, 0, 4, 4] = bad
    found = score(guess, torch.arange(3), truth, torch.arange(3))
    alone = score(torch.full((1, 1, 28, 28), 0.5), torch.tensor([1]), truth[1:2], torch.tensor([1]))
    assert [image.failed for image in found.per_image] == [False, True, False]
    assert found.per_image[1].psnr == pytest.approx(alone.psnr)
    assert found.per_image[0].psnr == 100.0
    assert found.psnr == pytest.approx((200 + alone.psnr) / 3)


@pytest.mark.parametrize("shape", [(3, 3, 28, 28), (3, 1, 27, 28), (3, 784), (0,), (3, 1, 28, 28, 1)])
def test_a_reconstruction_of_the_wrong_shape_counts_as_grey_guesses(shape: tuple[int, ...]) -> None:
    truth = pictures(3)
    found = score(torch.zeros(shape), torch.tensor([], dtype=torch.int64), truth, torch.arange(3), lpips=False)
    assert all(image.failed for image in found.per_image)
    assert found.psnr == pytest.approx(found.baseline_psnr)
    assert found.label_accuracy == 0
    assert [image.label_found for image in found.per_image] == [NO_LABEL] * 3


def test_missing_images_count_and_surplus_ones_do_not_help() -> None:
    truth = pictures(3)
    few = score(truth[:2], torch.tensor([0, 1]), truth, torch.arange(3), lpips=False)
    assert [image.failed for image in few.per_image] == [False, False, True]
    assert few.label_accuracy == pytest.approx(2 / 3)
    many = torch.cat([torch.full((3, 1, 28, 28), 0.5), truth])
    surplus = score(many, torch.arange(6), truth, torch.arange(3), lpips=False)
    assert surplus.psnr == pytest.approx(surplus.baseline_psnr)


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        (torch.zeros(0, 1, 8, 8), torch.zeros(0)),
        (torch.zeros(2, 1, 8, 8), torch.zeros(3)),
        (torch.full((1, 1, 8, 8), 2.0), torch.zeros(1)),
        (torch.full((1, 1, 8, 8), math.nan), torch.zeros(1)),
    ],
)
def test_a_truth_that_is_none_is_refused(images: Tensor, labels: Tensor) -> None:
    with pytest.raises(FedsimError, match=r"(?i)the (truth|true images)"):
        score(images, labels, images, labels)


def test_without_the_weights_lpips_is_none_and_said_once(
    tmp_path: object, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    scoring._lpips_network.cache_clear()
    try:
        truth = pictures(2)
        found = [score(truth, torch.arange(2), truth, torch.arange(2)) for _ in range(3)]
    finally:
        scoring._lpips_network.cache_clear()
    assert [scores.lpips for scores in found] == [None] * 3
    assert len([record for record in caplog.records if "LPIPS" in record.message]) == 1


@pytest.mark.skipif(not scoring.lpips_weights().is_file(), reason="AlexNet's weights are not on this machine")
@pytest.mark.parametrize(("channels", "side"), [(1, 28), (3, 32)])
def test_lpips_grows_with_the_noise_and_touches_no_global_generator(channels: int, side: int) -> None:
    scoring._lpips_network.cache_clear()
    before = torch.get_rng_state()
    truth = pictures(3, channels, side)
    found = [
        score(truth + a * noise(*truth.shape) - a / 2, torch.arange(3), truth, torch.arange(3)).lpips or 0.0
        for a in (0.0, 0.2, 0.8)
    ]
    assert found[0] == pytest.approx(0, abs=1e-6)
    assert found[0] + 0.01 < found[1] < found[2] - 0.01
    assert torch.equal(torch.get_rng_state(), before)
