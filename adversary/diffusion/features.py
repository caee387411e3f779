"""The noisy image of one example from the features that its gradient gives away."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor, nn

from adversary.diffusion.span import Features, read_features, readable
from fedsim import seeding

Ask = Callable[[Tensor], Tensor]
"""The network's answer to noisy images [1, C, H, W] at the step, and for the label, of the example."""

SATISFIED = 1e-6
"""Relative squared gap to the features from which no further start is tried."""

EXPLAINED = 1e-13
"""At which a search ends: features read from a gradient in single precision are no better."""

ROOM = 1.25
"""Features of a map, to pixels of the image, from which a map is taken to tell images apart."""


class _Reached(Exception):  # noqa: N818  (no error: the rest of the network is not needed)
    def __init__(self, features: Tensor) -> None:
        self.features = features


class _Explained(Exception):  # noqa: N818  (no error: optimisers end early by no other way)
    pass


@dataclass(frozen=True, eq=False)
class Seen:
    """A noisy image found from features.

    Attributes:
        noisy: ``x_t``, [1, C, H, W], float64.
        layer: whose input it was found from.
        doubt: of the features; see ``Features``.
        gap: relative squared distance of its features from those read.
    """

    noisy: Tensor
    layer: str
    doubt: float
    gap: float


def noisy_image(
    network: nn.Module,
    ask: Ask,
    gradients: Mapping[str, Tensor],
    shape: tuple[int, ...],
    *,
    seed: int,
    first: Tensor | None = None,
    starts: int = 3,
    evaluations: int = 1_500,
) -> Seen | None:
    """``x_t`` of one example: the features of the first layer that gives them away, and an image that has them.

    The features are exact, and far more than the image has pixels, so that the search for the image, by L-BFGS
    through the part of the network before them, is an easy one: none is needed through gradients.

    Args:
        network: that was trained, in evaluation mode and float64.
        ask: how it is asked.
        gradients: of one example's loss, by parameter name.
        shape: of the noisy image, [1, C, H, W].
        seed: of the starts after the first.
        first: the first start; the image of zeros if it is not given.
        starts: of the search at most, until one explains the features.
        evaluations: of the part of the network, for each start.

    Returns:
        The best start's, or None where no layer has as many output channels as positions, or a map before it hardly
        more features than the image has pixels.
    """
    like = next(network.parameters())
    inputs = _inputs(network, ask, torch.zeros(shape, dtype=like.dtype, device=like.device))
    for layer in _wide_enough(readable(network, inputs), inputs, math.prod(shape)):
        features = read_features(network, gradients, layer, inputs[layer])
        if features is not None:
            start = torch.zeros(shape) if first is None else first
            return _searched(network, ask, features, start.to(like), seed, starts, evaluations)
    return None


def _searched(
    network: nn.Module,
    ask: Ask,
    features: Features,
    first: Tensor,
    seed: int,
    starts: int,
    evaluations: int,
) -> Seen:
    wanted = features.values.to(first)
    best: Seen | None = None
    for attempt in range(starts):
        draws = seeding.generator(seed, "attack", "features", attempt)
        start = torch.randn(first.shape, generator=draws).to(first) if attempt else first
        noisy, gap = _descended(network, ask, features.layer, wanted, start, evaluations)
        if best is None or gap < best.gap:
            best = Seen(noisy, features.layer, features.doubt, gap)
        if best.gap < SATISFIED:
            break
    assert best is not None
    return best


def _descended(
    network: nn.Module, ask: Ask, layer: str, wanted: Tensor, start: Tensor, evaluations: int
) -> tuple[Tensor, float]:
    """An image whose features are those wanted, and the relative squared gap that is left."""
    image, size = start.clone().requires_grad_(), wanted.square().sum()
    search = torch.optim.LBFGS(
        [image],
        max_iter=evaluations,
        max_eval=evaluations,
        history_size=50,
        tolerance_grad=0.0,
        tolerance_change=0.0,
        line_search_fn="strong_wolfe",
    )
    best, least = start, math.inf

    def gap() -> Tensor:
        nonlocal best, least
        with torch.enable_grad():
            found = (fed(network, ask, layer, image) - wanted).square().sum() / size
        (image.grad,) = torch.autograd.grad(found, [image])
        if (now := float(found.detach())) < least:
            best, least = image.detach().clone(), now
        if least < EXPLAINED:
            raise _Explained
        return found

    with suppress(_Explained):
        search.step(gap)  # type: ignore[no-untyped-call]
    return best, least


def fed(network: nn.Module, ask: Ask, layer: str, noisy: Tensor) -> Tensor:
    """What a layer is fed for a noisy image; the network is computed no further."""

    def stop(_: nn.Module, given: tuple[Tensor, ...]) -> None:
        raise _Reached(given[0])

    handle = network.get_submodule(layer).register_forward_pre_hook(stop)
    try:
        ask(noisy)
    except _Reached as reached:
        return reached.features
    finally:
        handle.remove()
    raise RuntimeError(f"The network did not come by its layer {layer!r}.")


def _wide_enough(layers: Sequence[str], inputs: Mapping[str, tuple[int, ...]], pixels: int) -> list[str]:
    """The layers before which no map is narrower than the image: else several images have the same features.

    A quarter more is asked, as group norm takes away a mean and a scale of each group.
    """
    order = list(inputs)
    sizes = [math.prod(inputs[name]) for name in order[1:]]  # the first convolution is fed the image itself
    narrowest = dict(zip(order[1:], accumulate(sizes, min), strict=True))
    return [layer for layer in layers if narrowest.get(layer, 0) > ROOM * pixels]


def _inputs(network: nn.Module, ask: Ask, noisy: Tensor) -> dict[str, tuple[int, ...]]:
    """The shape of what each convolution is fed, in the order of computation."""
    shapes: dict[str, tuple[int, ...]] = {}
    names = {module: name for name, module in network.named_modules() if isinstance(module, nn.Conv2d)}

    def note(module: nn.Module, given: tuple[Tensor, ...]) -> None:
        shapes[names[module]] = tuple(given[0].shape)  # type: ignore[index]

    handles = [module.register_forward_pre_hook(note) for module in names]
    try:
        with torch.no_grad():
            ask(noisy)
    finally:
        for handle in handles:
            handle.remove()
    return shapes
