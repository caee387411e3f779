"""Image, noise, noisy image and velocity: each pair follows from the other.

With ``a^2 + b^2 = 1``, (x_0, noise) -> (x, v) is a rotation:

    x = a x_0 + b noise      v = a noise - b x_0
    x_0 = a x - b v          noise = b x + a v

It is exact at every noise level, while ``(x - b noise) / a`` amplifies errors by ``1 / a`` at the high ones. The scales
a and b are numbers or tensors that broadcast against the images, such as ``Schedule.scales`` gives; they may
carry gradients.
"""

from __future__ import annotations

from typing import Literal, get_args

from torch import Tensor

from fedsim.errors import invalid, unknown

Prediction = Literal["epsilon", "v"]
"""What a network's output is: the noise, or the velocity (Salimans and Ho 2022, arXiv:2202.00512)."""

Scale = Tensor | float


def noised(x_0: Tensor, noise: Tensor, a: Scale, b: Scale) -> Tensor:
    """``x_t``: the image as the network sees it (Ho et al. 2020, arXiv:2006.11239, equation 4)."""
    return a * x_0 + b * noise


def velocity(x_0: Tensor, noise: Tensor, a: Scale, b: Scale) -> Tensor:
    """``v``, the derivative of ``x_t`` by the angle of the rotation."""
    return a * noise - b * x_0


def from_velocity(x: Tensor, v: Tensor, a: Scale, b: Scale) -> tuple[Tensor, Tensor]:
    """Image and noise of a noisy image and its velocity."""
    return a * x - b * v, b * x + a * v


def image_from_noise(x: Tensor, noise: Tensor, a: Scale, b: Scale) -> Tensor:
    """``x_0`` of a noisy image and its noise; infinite where a is 0."""
    return (x - b * noise) / a


def noise_from_image(x: Tensor, x_0: Tensor, a: Scale, b: Scale) -> Tensor:
    """The noise in a noisy image whose image is known; infinite where b is 0."""
    return (x - a * x_0) / b


def target(prediction: Prediction, x_0: Tensor, noise: Tensor, a: Scale, b: Scale) -> Tensor:
    """What a network of this prediction should answer."""
    return noise if prediction == "epsilon" else velocity(x_0, noise, a, b)


def image_from_output(prediction: Prediction, x: Tensor, output: Tensor, a: Scale, b: Scale) -> Tensor:
    """``x_0`` as a network of this prediction has it."""
    return image_from_noise(x, output, a, b) if prediction == "epsilon" else a * x - b * output


def check_prediction(prediction: str, *, last_share: float) -> None:
    """Find what would fail later.

    Args:
        prediction: as the user wrote it.
        last_share: ``alpha_bar`` of the schedule's last step.

    Raises:
        FedsimError: nothing is called that, or the noise is predicted where it says nothing of the image.
    """
    if prediction not in get_args(Prediction):
        raise unknown("prediction", prediction, get_args(Prediction))
    if prediction == "epsilon" and last_share <= 0:
        raise invalid(
            "prediction",
            prediction,
            "the schedule ends in pure noise, from which predicted noise gives no image",
            "Predict 'v', or take a schedule that keeps a little of the image",
        )
