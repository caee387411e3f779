"""What a diffusion network is told beside the noisy image, as planes of the one tensor that a task feeds."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fedsim.errors import FedsimError


class Stepped(nn.Module):
    """A network of images and steps, and of classes if it is told them, as one of a single tensor.

    Args:
        network: answers ``network(x, t)``; with classes ``network(x, t, labels)``.
        classes: how many it knows; 0 if it is told none.
    """

    def __init__(self, network: nn.Module, classes: int = 0) -> None:
        super().__init__()
        self.network = network
        self.classes = classes

    def forward(self, inputs: Tensor) -> Tensor:
        """The answer [B, C, H, W] to noisy images above their step, [B, C + 1, H, W], or that and their class below.

        Raises:
            FedsimError: a label is no class of the network.
        """
        planes = 2 if self.classes else 1
        told = inputs[:, -planes:, 0, 0].long().unbind(1)
        try:
            answer: Tensor = self.network(inputs[:, :-planes], *told)
        except IndexError as error:  # an embedding's; the labels themselves cannot be looked at inside of vmap
            if not self.classes:
                raise
            raise FedsimError(
                f"task diffusion: a label is none of the {self.classes} classes of the network, 0 to "
                f"{self.classes - 1}. Correct the labels of the data."
            ) from error
        return answer


def above(images: Tensor, *numbers: Tensor) -> Tensor:
    """Images [B, C, H, W] with numbers each, [B], in planes below them: [B, C + 1, H, W] with one of them."""
    planes = [n.to(images.dtype).view(-1, 1, 1, 1).expand(-1, 1, *images.shape[2:]) for n in numbers]
    return torch.cat([images, *planes], dim=1)
