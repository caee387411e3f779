"""A trained diffusion model, or a student of one, as a prior: latents to images, differentiable by the latents."""

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
from fedsim.diffusion import ddim
from fedsim.diffusion.student import DESCRIPTION, load_student
from fedsim.errors import FedsimError, invalid
from fedsim.protocol import Arrays, Knowledge, Observation
from fedsim.tasks import Generative

Generator = Callable[[Tensor], Tensor]
"""Images as the network is fed, [N, C, H, W], of latents of their shape."""


def generator_of(
    prior: str,
    observation: Observation,
    knowledge: Knowledge,
    count: int,
    device: torch.device | str,
    *,
    labels: Tensor | None = None,
    save_memory: bool = False,
) -> Generator:
    """Latents to images by what the prior names.

    Args:
        prior: the folder of a student, or else see ``prior_arrays``.
        observation: of the victim.
        knowledge: for network and task.
        count: calls of the network; a student takes its own steps, all of them.
        device: where to compute.
        labels: see ``generator``; students that are told classes are told these.
        save_memory: see ``generator``.

    Raises:
        FedsimError: as ``prior_arrays``, ``generator`` and ``student_generator`` do.
    """
    if (Path(prior) / DESCRIPTION).is_file():
        return student_generator(prior, knowledge, device, labels=labels, save_memory=save_memory)
    arrays = prior_arrays(prior, observation, knowledge)
    return generator(arrays, knowledge, count, device, labels=labels, save_memory=save_memory)


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
        remedy = "Give that of a model, the folder of a student, or 'global', 'random' or 'none'"
        raise invalid("prior", prior, "is no file", remedy)
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
        labels: of the images, int64 [N], where networks are told them; of N images each, if there are more.
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
    called = _thrifty(answer) if save_memory else answer

    def make(latents: Tensor) -> Tensor:
        return task.generated(called, latents, count, _repeated(labels, latents))

    return make


def student_generator(
    folder: str | Path,
    knowledge: Knowledge,
    device: torch.device | str,
    *,
    labels: Tensor | None = None,
    save_memory: bool = False,
) -> Generator:
    """Latents to images by DDIM over all steps of a student's own schedule.

    Args:
        folder: what ``fedsim distill`` wrote.
        knowledge: for the shape of the images.
        device: where to compute.
        labels: see ``generator``; of no effect on students that are told none.
        save_memory: see ``generator``.

    Raises:
        FedsimError: there is no student, its images are of another shape, or it is told classes and none are known.
    """
    student = load_student(folder)
    if student.input_shape != tuple(knowledge.input_shape):
        shape, wanted = list(student.input_shape), list(knowledge.input_shape)
        problem = f"its images are of shape {shape}, and the victim's are of {wanted}"
        raise invalid("prior", str(folder), problem, "Give a student of a model of the victim's images")
    if student.classes and labels is None:
        problem = "its network is told classes, and the victim's is told none"
        raise invalid("prior", str(folder), problem, "Give a student of a network that is told none")
    student.network.to(device).requires_grad_(requires_grad=False)
    schedule = student.fold.student
    steps = schedule.spaced(len(schedule)).flip(0)

    def make(latents: Tensor) -> Tensor:
        # With a bound, latents would have no derivative where images are saturated.
        denoise = student.denoiser(_repeated(labels if student.classes else None, latents), bound=None)
        return ddim(_thrifty(denoise) if save_memory else denoise, schedule, latents, steps)

    return make


def _repeated(labels: Tensor | None, latents: Tensor) -> Tensor | None:
    """The labels of the images of latents, of which there may be several of each."""
    return None if labels is None else labels.repeat(len(latents) // len(labels))


def _thrifty(answer: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A call that is computed once more on the way back."""

    def call(*fed: Tensor) -> Tensor:
        found: Tensor = checkpoint(answer, *fed, use_reentrant=False, preserve_rng_state=False)
        return found

    return call
