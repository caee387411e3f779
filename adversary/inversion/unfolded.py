"""Convolutions as matrix products, which small layers of many victims at once are faster as."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn import functional

MOST_COLUMNS = 1 << 17
"""Entries of the matrix of patches of a victim, above which a convolution stays one."""


class Unfolded(nn.Conv2d):
    """A convolution that multiplies the matrix of its input's patches.

    With weights of their own, V victims make a convolution in V groups, and its second derivatives too; on a CPU
    those run well below the speed of a batched matrix product where channels are few.

    Attributes:
        places: by the shape of an image [C, H, W], where each entry of its matrix of patches comes from: positions in
            the flattened image, from 1, and 0 for padding. Other shapes are convolved.
    """

    places: dict[tuple[int, ...], Tensor]

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        places = self.places.get(tuple(input.shape[1:]))
        if places is None:
            convolved: Tensor = super()._conv_forward(input, weight, bias)
            return convolved
        rows, columns = self.sides(input)
        patches = Patches.apply(input, self, places)
        kernel = weight.flatten(1)
        # Of a single image the plain product: that of a matrix and a batch goes by way of copies.
        outputs: Tensor = (kernel @ patches[0])[None] if len(input) == 1 else kernel @ patches
        if bias is not None:
            outputs = outputs + bias[:, None]
        return outputs.view(len(input), -1, rows, columns)

    def sides(self, input: Tensor) -> tuple[int, int]:
        """Height and width of what comes out."""
        (down, across), (high, wide) = self.stride, self.kernel_size
        rows = (input.shape[2] + 2 * int(self.padding[0]) - high) // down + 1
        return rows, (input.shape[3] + 2 * int(self.padding[1]) - wide) // across + 1


def unfolded(network: nn.Module, inputs: Tensor) -> nn.Module:
    """A copy of the network with its plain convolutions as matrix products; the same function up to rounding.

    Args:
        network: of which the copy is made.
        inputs: such as it will be fed, [N, C, H, W]; it is run on them once, to see the sizes of its layers' inputs.
    """
    found = copy.deepcopy(network)
    hooks = []
    for module in found.modules():
        # Subclasses may compute something else.
        if type(module) is nn.Conv2d and _plain(module):
            module.__class__ = Unfolded
            module.places = {}  # type: ignore[assignment]
            hooks.append(module.register_forward_pre_hook(_note))
    with torch.no_grad():
        found(inputs)
    for hook in hooks:
        hook.remove()
    return found


class Patches(Function):
    """Images [N, C, H, W] to their matrices of patches [N, channels x kernel, rows x columns]; linear.

    On a CPU this is three times as fast as PyTorch's ``unfold``, which it equals.
    """

    @staticmethod
    def forward(images: Tensor, layer: nn.Conv2d, places: Tensor) -> Tensor:
        if images.device.type != "cpu":
            return functional.unfold(images, **_geometry(layer))
        pixels = functional.pad(images.flatten(1), (1, 0))
        entries = layer.in_channels * layer.kernel_size[0] * layer.kernel_size[1]
        return pixels.index_select(1, places).view(len(images), entries, -1)

    @staticmethod
    def setup_context(context: Any, inputs: tuple[Tensor, nn.Conv2d, Tensor], output: Tensor) -> None:  # noqa: ARG004
        images, context.layer, context.places = inputs
        context.size = tuple(images.shape[2:])

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return Pixels.apply(gradient, context.layer, context.places, context.size), None, None

    @staticmethod
    def vmap(_: Any, in_dims: tuple[int, ...], images: Tensor, *others: Any) -> tuple[Tensor, int]:
        images = images.movedim(in_dims[0], 0)
        found = Patches.apply(images.flatten(0, 1), *others)
        return found.unflatten(0, images.shape[:2]), 0


class Pixels(Function):
    """The transpose of ``Patches``: sums over the patches that a pixel is in."""

    @staticmethod
    def forward(patches: Tensor, layer: nn.Conv2d, places: Tensor, size: tuple[int, int]) -> Tensor:  # noqa: ARG004
        return functional.fold(patches, size, **_geometry(layer))

    @staticmethod
    def setup_context(context: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG004
        _, context.layer, context.places, _ = inputs

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        return Patches.apply(gradient, context.layer, context.places), None, None, None

    @staticmethod
    def vmap(_: Any, in_dims: tuple[int, ...], patches: Tensor, *others: Any) -> tuple[Tensor, int]:
        patches = patches.movedim(in_dims[0], 0)
        found = Pixels.apply(patches.flatten(0, 1), *others)
        return found.unflatten(0, patches.shape[:2]), 0


def _note(layer: nn.Module, arguments: tuple[Tensor]) -> None:
    """Before a layer runs: take down the places of its input, unless the matrix of patches is too large."""
    (input,) = arguments
    if not isinstance(layer, Unfolded):
        raise TypeError("only convolutions as matrix products have places")
    high, wide = layer.sides(input)
    entries = layer.in_channels * layer.kernel_size[0] * layer.kernel_size[1] * high * wide
    if len(input) * entries <= MOST_COLUMNS:
        shape = tuple(input.shape[1:])
        positions = torch.arange(1, input[0].numel() + 1, dtype=torch.float64).view(1, *shape)
        layer.places[shape] = functional.unfold(positions, **_geometry(layer)).flatten().long().to(input.device)


def _geometry(layer: nn.Conv2d) -> dict[str, Any]:
    return {"kernel_size": layer.kernel_size, "padding": layer.padding, "stride": layer.stride}


def _plain(layer: nn.Conv2d) -> bool:
    zeros = layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
    return zeros and layer.groups == 1 and layer.dilation == (1, 1)
