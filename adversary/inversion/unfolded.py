"""Convolutions as matrix products, which small layers of many victims at once are faster as."""

from __future__ import annotations

import copy

from torch import Tensor, nn
from torch.nn import functional

MOST_COLUMNS = 1 << 17
"""Entries of the matrix of patches of a victim, above which a convolution stays one."""


class Unfolded(nn.Conv2d):
    """A convolution that multiplies the matrix of its input's patches.

    With weights of their own, V victims make a convolution in V groups, and its second derivatives too; on a CPU
    those run well below the speed of a batched matrix product where channels are few.
    """

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        (down, across), (high, wide), padding = self.stride, self.kernel_size, self.padding
        examples, channels, height, width = input.shape
        rows = (height + 2 * int(padding[0]) - high) // down + 1
        columns = (width + 2 * int(padding[1]) - wide) // across + 1
        if examples * channels * high * wide * rows * columns > MOST_COLUMNS:
            convolved: Tensor = super()._conv_forward(input, weight, bias)
            return convolved
        patches = functional.unfold(input, self.kernel_size, padding=padding, stride=self.stride)  # type: ignore[arg-type]
        outputs: Tensor = weight.flatten(1) @ patches
        if bias is not None:
            outputs = outputs + bias[:, None]
        return outputs.view(examples, -1, rows, columns)


def unfolded(network: nn.Module) -> nn.Module:
    """A copy of the network with its plain convolutions as matrix products; the same function up to rounding."""
    found = copy.deepcopy(network)
    for module in found.modules():
        # Subclasses may compute something else.
        if type(module) is nn.Conv2d and _plain(module):
            module.__class__ = Unfolded
    return found


def _plain(layer: nn.Conv2d) -> bool:
    zeros = layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
    return zeros and layer.groups == 1 and layer.dilation == (1, 1)
