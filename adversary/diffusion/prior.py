"""A trained diffusion model as a prior: latents to images, differentiable by the latents."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from adversary.network import Weights, build, logits, place
from fedsim.errors import FedsimError, invalid
from fedsim.protocol import Arrays, Knowledge, Observation
from fedsim.tasks import Generative

Generator = Callable[[Tensor], Tensor]
"""Images as the network is fed, [N, C, H, W], of latents of their shape."""


def prior_arrays(prior: str, observation: Observation, knowledge: Knowledge) -> Arrays:
    """The state of the model that the prior names.

    Args:
        prior: ``global`` for the model that the victim was sent, ``random`` for fresh weights, or the path of a
            safetensors file with the state of a network of the victim's layout, such as ``model.safetensors`` of a run.
        observation: of the victim.
        knowledge: for the network.

    Raises:
        FedsimError: there is no such file, or it is not one of tensors.
    """
    if prior == "global":
        return observation.sent
    if prior == "random":
        return knowledge.model().state_dict()
    path = Path(prior)
    if not path.is_file():
        raise invalid("prior", prior, "is no file", "Give that of a model, or 'global', 'random' or 'none'")
    try:
        return load_file(path)
    except SafetensorError as error:
        raise invalid("prior", prior, f"cannot be read ({error})", "Give a safetensors file") from error


def generator(
    arrays: Arrays,
    knowledge: Knowledge,
    count: int,
    device: torch.device | str,
    *,
    labels: Tensor | None = None,
    save_memory: bool = False,
) -> Generator:
    """Latents to images through a few steps of a deterministic sampler.

    Args:
        arrays: the model's state.
        knowledge: for network and task.
        count: calls of the network.
        device: where to compute.
        labels: of the images, int64 [N], where networks are told them.
        save_memory: compute each call of the network once more on the way back rather than keep it.

    Raises:
        FedsimError: the state is not of this network, or networks of this task make no images.
    """
    task = knowledge.task
    if not isinstance(task, Generative):
        raise FedsimError(f"Networks of the loss {task.objective!r} make no images. Set prior = 'none'.")
    network = build(knowledge, "eval", device)
    placed = place(network, arrays, device)
    weights = Weights({name: tensor.detach() for name, tensor in placed.parameters.items()}, placed.buffers)
    answer = partial(logits, network, weights)

    def thrifty(fed: Tensor) -> Tensor:
        found: Tensor = checkpoint(answer, fed, use_reentrant=False, preserve_rng_state=False)
        return found

    return lambda latents: task.generated(thrifty if save_memory else answer, latents, count, labels)
