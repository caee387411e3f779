"""How much each tensor of an update counts in a distance, by its depth in the network and by what was observed."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from adversary.network import Weights, logits

LayerWeights = Callable[[Sequence[int], Sequence[Tensor]], Tensor]
"""Maps the depth of each tensor's block, 0 at the input, and the update observed to weights >= 0, [tensors]."""


def constant() -> LayerWeights:
    """All tensors alike."""
    return lambda depths, target: torch.ones(len(depths), device=target[0].device)


def increasing_with_depth(gain: float) -> LayerWeights:
    """From 1 at the input to ``gain`` at the output, in equal steps from block to block.

    AGIC (SRDS 2022, arXiv:2204.13784) weighs layers the more the deeper they lie; how is not published. The linear
    ramp is that of code from the same group, which counts off tensors by three; here a block is one layer with
    a matrix or kernel and what follows it up to the next, in the order in which the network computes.

    Args:
        gain: weight of the last block over the first; 1 weighs all alike.
    """

    def weigh(depths: Sequence[int], target: Sequence[Tensor]) -> Tensor:
        last = max(*depths, 1)
        return torch.tensor([1 + (gain - 1) * depth / last for depth in depths], device=target[0].device)

    return weigh


def decreasing_with_depth(rate: float = 1.0) -> LayerWeights:
    """``exp(-rate depth)``: 1 at the input (Dimitrov et al., TMLR 2022, arXiv:2206.12395, and the authors' code)."""
    return lambda depths, target: torch.tensor([math.exp(-rate * d) for d in depths], device=target[0].device)


def compensating(weights: LayerWeights) -> LayerWeights:
    """Other weights, times entries over non-zero entries of each tensor observed, the last block's excepted.

    A client that prunes its update sets most entries of its large tensors to zero; what is left of them then
    counts as much as a whole tensor. A tensor that is all zeros keeps its entries as its factor.
    """

    def weigh(depths: Sequence[int], target: Sequence[Tensor]) -> Tensor:
        left = torch.stack([t.count_nonzero().clamp_min(1) for t in target])
        entries = torch.tensor([t.numel() for t in target], device=left.device)
        output = torch.tensor([depth == max(depths) for depth in depths], device=left.device)
        return weights(depths, target) * torch.where(output, torch.ones_like(left), entries / left)

    return weigh


def depths(network: nn.Module, weights: Weights, input_shape: Sequence[int]) -> list[int]:
    """The depth of each trained tensor's block, 0 at the input, in the network's order of tensors.

    Depth is the order in which a forward pass comes to the layers, which need not be the order in which they
    are declared. A layer with a tensor of two or more dimensions (convolution, linear, attention) begins a
    block; layers with vectors alone (normalisation) belong to the block before them. A tensor whose layer is
    never called as a module belongs to the block of the tensor declared before it.

    Args:
        network: neither it nor the weights are changed.
        weights: of the network, on any device.
        input_shape: channels, height, width.
    """
    met: list[str] = []
    hooks = [
        module.register_forward_pre_hook(lambda _module, _args, name=name: met.append(name))
        for name, module in network.named_modules()
        if next(module.parameters(recurse=False), None) is not None
    ]
    device = next(iter(weights.parameters.values())).device
    try:
        with torch.no_grad():
            # Two images, as batch norm in train mode refuses one.
            logits(network, weights, torch.zeros(2, *input_shape, device=device))
    finally:
        for hook in hooks:
            hook.remove()
    modules, block, depth_of = dict(network.named_modules()), -1, dict[str, int]()
    for name in dict.fromkeys(met):
        begins = any(tensor.ndim >= 2 for tensor in modules[name].parameters(recurse=False))
        block = block + 1 if begins else block
        depth_of[name] = max(block, 0)
    found: list[int] = []
    for tensor in weights.names():
        layer = tensor.rpartition(".")[0]
        found.append(depth_of.get(layer, found[-1] if found else 0))
    return found
