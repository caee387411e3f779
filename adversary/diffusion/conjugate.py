"""The residual of a diffusion loss by conjugate gradients, for networks whose Jacobian is too large to write down."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fedsim.diffusion import Objective


@dataclass(frozen=True, eq=False)
class Solved:
    """The residual that explains a gradient best, up to the iterations spent on it.

    Attributes:
        residual: ``r``, of the noisy image's shape.
        unexplained: ``|(2 c_t / n) J^T r - g| / |g|``.
        iterations: of the conjugate gradients.
    """

    residual: Tensor
    unexplained: float
    iterations: int


def solve(
    network: nn.Module,
    gradients: Mapping[str, Tensor],
    objective: Objective,
    noisy: Tensor,
    t: Tensor,
    *,
    iterations: int = 60,
    tolerance: float = 1e-8,
) -> Solved:
    """Solve ``J J^T r = J g n / (2 c_t)`` for r; each iteration costs three passes back and no memory to speak of.

    ``J^T r`` is linear in r, so that ``J u`` is the derivative of ``<J^T r, u>`` by r.

    Args:
        network: that was trained, in evaluation mode.
        gradients: of one example's loss, by parameter name; the error is squared.
        objective: the loss.
        noisy: ``x_t``, [1, ...].
        t: its step, int64 [1].
        iterations: at most.
        tolerance: relative size of what is left of the right side at which it stops.
    """
    parameters = dict(network.named_parameters())
    answer = network(noisy, t)
    any_residual = torch.zeros_like(answer, requires_grad=True)
    backward = torch.autograd.grad(answer, [parameters[n] for n in gradients], any_residual, create_graph=True)

    def transposed(r: Tensor) -> Sequence[Tensor]:
        return torch.autograd.grad(answer, [parameters[n] for n in gradients], r, retain_graph=True)

    def forward(u: Sequence[Tensor]) -> Tensor:
        return torch.autograd.grad(backward, any_residual, u, retain_graph=True)[0]

    scale = 2 * float(objective.weights(t, noisy)) / noisy.numel()
    observed = list(gradients.values())
    found, done = _conjugate(lambda r: forward(transposed(r)), forward(observed), iterations, tolerance)
    left = [one - other for one, other in zip(transposed(found), observed, strict=True)]
    return Solved(found.detach() / scale, float(_length(left) / _length(observed)), done)


def _conjugate(
    times: Callable[[Tensor], Tensor], right: Tensor, iterations: int, tolerance: float
) -> tuple[Tensor, int]:
    """Conjugate gradients from zero (Hestenes and Stiefel 1952) for a positive matrix known by its products."""
    found, left = torch.zeros_like(right), right.clone()
    along, size, wanted = left, left.square().sum(), tolerance**2 * right.square().sum()
    for done in range(iterations):
        if size <= wanted:
            return found, done
        product = times(along)
        step = size / (along * product).sum()
        found, left = found + step * along, left - step * product
        before, size = size, left.square().sum()
        along = left + size / before * along
    return found, iterations


def _length(tensors: Sequence[Tensor]) -> Tensor:
    return torch.stack([tensor.square().sum() for tensor in tensors]).sum().sqrt()
