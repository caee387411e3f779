"""UNets of diffusers, built from parameters alone; nothing is downloaded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from fedsim import seeding
from fedsim.errors import FedsimError, invalid
from fedsim.models import InputShape
from fedsim.registry import Registry

HEAD = 8
"""Channels of an attention head; diffusers' default."""

NETWORKS: Registry[nn.Module] = Registry("diffusion network", "fedsim.diffusion", imports=True)


@NETWORKS.register("unet")
class UNet(nn.Module):
    """``diffusers.UNet2DModel`` with group norm only, one more halving of the image for each width after the first.

    1,062,497 parameters for 28x28 grey images. ``unet`` is everything but the last convolution, which is ``out``.
    Attention is computed by plain matrix products: PyTorch's fused one has no second derivative.

    Args:
        input_shape: channels, height, width; both sides divisible by 2 for each halving.
        widths: channels at each size.
        layers: residual blocks at each size, 1 or more.
        groups: of the group norms; divides every width.
        attention: whether the middle block attends over the smallest size, in heads of 8 channels.
        classes: of class labels to condition on; 0 for none.

    Raises:
        FedsimError: sides or widths are not divisible, a number is out of its range, or diffusers is not installed.
    """

    def __init__(
        self,
        input_shape: InputShape,
        widths: tuple[int, ...] = (32, 64, 64),
        layers: int = 1,
        groups: int = 8,
        attention: bool = True,
        classes: int = 0,
    ) -> None:
        super().__init__()
        _check_sizes(input_shape, widths, groups)
        _check_parts(widths, layers, attention, classes)
        channels, height, width = input_shape
        inner = _diffusers().UNet2DModel(
            sample_size=(height, width),
            in_channels=channels,
            out_channels=channels,
            down_block_types=("DownBlock2D",) * len(widths),
            up_block_types=("UpBlock2D",) * len(widths),
            block_out_channels=widths,
            layers_per_block=layers,
            norm_num_groups=groups,
            add_attention=attention,
            attention_head_dim=HEAD,
            num_class_embeds=classes or None,
        )
        _use_plain_attention(inner)
        self.out = inner.conv_out
        inner.conv_out = nn.Identity()
        self.unet = inner

    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """Noise or velocity [N, C, H, W] of noisy images [N, C, H, W] at steps int64 [N], given labels int64 [N]."""
        return self.features(x, t, labels)[0]

    def features(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The answer, and the features before the last convolution, [N, first width, H, W]."""
        hidden: Tensor = self.unet(x, t, class_labels=labels, return_dict=False)[0]
        answer: Tensor = self.out(hidden)
        return answer, hidden


def build(name: str, input_shape: InputShape, *, seed: int = 0, **parameters: Any) -> nn.Module:
    """A network in evaluation mode whose weights depend on the seed and the name alone.

    Args:
        name: a registered name, or ``module:callable`` of the user's own, called with ``(input_shape, **parameters)``.
            It answers ``network(x, t)`` with noise or velocity.
        input_shape: channels, height, width.
        seed: of the experiment.
        parameters: of the network.

    Raises:
        FedsimError: unknown name or parameter, the network cannot be built for this input, or it needs a package
            that is not installed.
    """
    checked = NETWORKS.check(name, parameters, given=1)
    factory = NETWORKS.factory(name)
    with seeding.borrowed_global_state(seed, "diffusion", name):
        try:
            network = factory(input_shape, **checked)
        except (RuntimeError, ValueError, ZeroDivisionError) as error:
            raise FedsimError(
                f"diffusion network {name!r} cannot be built for images of shape {list(input_shape)}: {error}. "
                "Choose other parameters."
            ) from error
    if not isinstance(network, nn.Module):
        raise FedsimError(
            f"diffusion network {name!r} gave a {type(network).__name__}. It must give a torch.nn.Module."
        )
    return network.eval()


def builder(name: str, input_shape: InputShape, *, seed: int = 0, **parameters: Any) -> Callable[[], nn.Module]:
    """``build`` with its arguments filled in, to be called once a worker."""

    def make() -> nn.Module:
        return build(name, input_shape, seed=seed, **parameters)

    return make


def _diffusers() -> Any:
    try:
        import diffusers
    except ImportError as error:
        raise FedsimError(
            "The diffusion network 'unet' needs diffusers, which is not installed. Run: pip install fedsim[diffusion]"
        ) from error
    return diffusers


def _use_plain_attention(network: nn.Module) -> None:
    from diffusers.models.attention_processor import Attention, AttnProcessor

    for module in network.modules():
        if isinstance(module, Attention):
            module.set_processor(AttnProcessor())
            module.upcast_softmax = False  # it casts to float32, where whoever inverts gradients needs float64


def _check_parts(widths: tuple[int, ...], layers: int, attention: bool, classes: int) -> None:
    field = "diffusion network unet"
    if layers < 1:
        raise invalid(f"{field}: layers", layers, "there must be 1 or more residual blocks at each size", "Give 1")
    if classes < 0:
        raise invalid(f"{field}: classes", classes, "must be 0 or more", "Give 0 for a network without labels")
    if attention and widths[-1] % HEAD:
        raise invalid(
            f"{field}: widths",
            widths,
            f"attention has heads of {HEAD} channels, so that the last width must be divisible by {HEAD}",
            "Choose another last width, or set attention = false",
        )


def _check_sizes(input_shape: InputShape, widths: tuple[int, ...], groups: int) -> None:
    field = "diffusion network unet"
    if not widths or min(widths) < 1:
        raise invalid(f"{field}: widths", widths, "there must be one or more, above 0", "(32, 64, 64) is usual")
    if groups < 1 or any(width % groups for width in widths):
        raise invalid(f"{field}: groups", groups, f"must divide each of the widths {list(widths)}", "Take a divisor")
    sides = input_shape[1:]
    if any(side < 1 or side % 2 ** (len(widths) - 1) for side in sides):
        fitting = max((n for n in range(len(widths)) if not any(side % 2**n for side in sides)), default=0) + 1
        raise invalid(
            f"{field}: widths",
            widths,
            f"{len(widths) - 1} halvings need sides divisible by {2 ** (len(widths) - 1)}, and the images are "
            f"{sides[0]}x{sides[1]}",
            f"Give {fitting} width{'s' if fitting > 1 else ''} or fewer, or pad the images",
        )
