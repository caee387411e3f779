"""The image of one example whose noise and step are known, as far as its gradient gives it away in closed form."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from adversary.diffusion.features import noisy_image
from adversary.diffusion.observed import Observed, observed
from fedsim.protocol import Knowledge, Observation

EVALUATIONS = 500
"""Of the part of the network before the features: enough for a start, a third of what a result takes."""


def image_given_away(
    observation: Observation, knowledge: Knowledge, *, seed: int, device: torch.device | str = "cpu"
) -> Tensor | None:
    """``(x_t - b_t eps) / a_t`` with the ``x_t`` of ``noisy_image``, whose search begins at ``b_t eps``, a grey image.

    Args:
        observation: of the victim.
        knowledge: with the noise and the step that were drawn.
        seed: of further starts.
        device: where to compute, in double precision.

    Returns:
        As the network is fed, [1, C, H, W], in the precision of the noise; or ``None`` where there are several
        examples, or no layer gives its features away.
    """
    if observation.examples != 1 or knowledge.noise is None or knowledge.steps is None:
        return None
    seen = observed(observation, knowledge, device=device, dtype=torch.float64)
    noise, t = knowledge.noise.to(seen.like), knowledge.steps.to(device)
    a, b = seen.objective.schedule.scales(t, noise)
    found = noisy_image(
        seen.network,
        partial(_ask, seen, t),
        seen.gradients,
        seen.shape,
        seed=seed,
        first=b * noise,
        evaluations=EVALUATIONS,
    )
    return None if found is None else ((found.noisy - b * noise) / a).to(knowledge.noise.dtype)


def _ask(seen: Observed, t: Tensor, noisy: Tensor) -> Tensor:
    answer: Tensor = seen.network(noisy, t)
    return answer
