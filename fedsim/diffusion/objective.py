"""The loss of diffusion training, the same for who trains and for who inverts its gradient."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

from torch import Tensor
from torch.nn.functional import mse_loss, smooth_l1_loss

from fedsim.diffusion.parametrisation import Prediction, check_prediction, noised, target
from fedsim.diffusion.schedules import Schedule
from fedsim.errors import unknown

Network = Callable[[Tensor, Tensor], Tensor]
"""A network's answer [N, ...] to noisy images [N, ...] at steps int64 [N]."""

LabelledNetwork = Callable[..., Tensor]
"""A ``Network``, or one that is also told the classes of the images, int64 [N], as its third argument."""

Error = Literal["squared", "huber"]


@dataclass(frozen=True)
class Objective:
    """How far a network's answer is from the truth: ``mean_i c(t_i) |network(x_{t_i}, t_i) - target_i|^2 / n``.

    Differentiable twice, by weights, images and noise; nothing is drawn in it.

    Attributes:
        schedule: of the noise.
        prediction: what the network answers with.
        weighted: for v-prediction, whether ``c(t) = alpha_bar_t``, which makes both predictions weigh the steps alike
            in the image; else, and for the noise, 1.
        error: ``squared``, as in DDPM, or ``huber`` (smooth L1), as in FedDiffuse (arXiv:2406.12575).

    Raises:
        FedsimError: prediction or error is unknown, or the noise cannot be predicted under this schedule.
    """

    schedule: Schedule
    prediction: Prediction = "epsilon"
    weighted: bool = True
    error: Error = "squared"

    def __post_init__(self) -> None:
        check_prediction(self.prediction, last_share=float(self.schedule.alpha_bar[-1]))
        if self.error not in get_args(Error):
            raise unknown("error", self.error, get_args(Error))

    def __call__(self, network: Network, x_0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """The mean loss of a batch, a scalar.

        Args:
            network: its answer is of the images' shape.
            x_0: images scaled to [-1, 1], [N, ...].
            noise: standard normal, of the images' shape.
            t: steps, int64 [N].

        Raises:
            FedsimError: a step is not of the schedule.
        """
        return self.each(network, x_0, noise, t).mean()

    def each(self, network: Network, x_0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """The loss of each example, [N]."""
        x, wanted = self.posed(x_0, noise, t)
        return self.errors(network(x, t), wanted) * self.weights(t, x_0)

    def posed(self, x_0: Tensor, noise: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """The noisy images that a network is shown, and what it should answer, both [N, ...]."""
        a, b = self.schedule.scales(t, x_0)
        return noised(x_0, noise, a, b), target(self.prediction, x_0, noise, a, b)

    def weights(self, t: Tensor, like: Tensor) -> Tensor:
        """``c(t)`` for each example, [N], of the type and on the device of ``like``."""
        each = like.new_ones(len(t))
        return self.schedule.shares(t, each) if self.prediction == "v" and self.weighted else each

    def errors(self, answer: Tensor, wanted: Tensor) -> Tensor:
        """How far each answer is from what is wanted, not weighted, [N]."""
        distance = mse_loss if self.error == "squared" else smooth_l1_loss
        return distance(answer, wanted, reduction="none").flatten(1).mean(1)


def told(network: LabelledNetwork, labels: Tensor | None) -> Network:
    """The network as one of images and steps alone: of images of these classes, int64 [N], if there are any."""
    if labels is None:
        return network
    return lambda x, t: network(x, t, labels)
