"""The residual of a diffusion loss, solved from its gradient by linear least squares."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fedsim.diffusion.objective import Objective
from fedsim.errors import FedsimError


@dataclass(frozen=True, eq=False)
class Fit:
    """The residual that explains a gradient best, and what it leaves unexplained.

    Attributes:
        residual: ``r = network(x_t, t) - target``, [1, ...].
        target: noise or velocity, whichever the network predicts, [1, ...].
        unexplained: ``|(2 c_t / n) J^T r - g| / |g|``; about 0 where ``(x_t, t)`` are the true ones.
        condition: of the Jacobian ``J``, its largest singular value over its smallest.
    """

    residual: Tensor
    target: Tensor
    unexplained: float
    condition: float


def fit(
    network: nn.Module,
    gradients: Mapping[str, Tensor],
    objective: Objective,
    noisy: Tensor,
    t: Tensor,
    *,
    chunk: int = 64,
) -> Fit:
    """Solve ``g = (2 c_t / n) J(x_t, t)^T r`` for r through ``J J^T``, for one example and the squared error.

    Exact where the image has fewer pixels than the network has parameters and J has full row rank. It takes n
    backward passes and n x P numbers of memory, which is meant for n up to about 1,000.

    Args:
        network: that was trained, in evaluation mode; float64 keeps ten digits more.
        gradients: of one example's loss, by parameter name.
        objective: the loss.
        noisy: the candidate ``x_t``, [1, ...].
        t: its step, int64 [1].
        chunk: rows of J computed at once.

    Raises:
        FedsimError: the error is not squared, or there is more than one example, or a gradient is absent.
    """
    names, parameters = zip(*network.named_parameters(), strict=True)
    _check(objective, noisy, gradients, names)
    observed = torch.cat([gradients[name].flatten() for name in names])
    answer = network(noisy, t)
    rows = _jacobian(answer, parameters, chunk)
    scale = 2 * float(objective.weights(t, noisy)) / noisy.numel()
    gram = rows @ rows.T
    flat = torch.linalg.solve(gram, rows @ observed) / scale
    left = (scale * (flat @ rows) - observed).norm() / observed.norm()
    spectrum = torch.linalg.eigvalsh(gram)
    residual = flat.reshape(answer.shape)
    condition = float((spectrum[-1] / spectrum[0].clamp_min(torch.finfo(spectrum.dtype).tiny)).sqrt())
    return Fit(residual, answer.detach() - residual, float(left), condition)


def rotate_back(objective: Objective, noisy: Tensor, target: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """Image and noise of ``x_t`` and what the network should have answered, each [N, ...].

    For the velocity it is an orthogonal map; for the noise, errors of the image are multiplied by ``1 / a_t``.
    """
    a, b = objective.schedule.scales(t, noisy)
    if objective.prediction == "v":
        return a * noisy - b * target, b * noisy + a * target
    return (noisy - b * target) / a, target


def _jacobian(answer: Tensor, parameters: tuple[nn.Parameter, ...], chunk: int) -> Tensor:
    """``J``, [n, P], a batch of rows at a time."""
    units = torch.eye(answer.numel(), dtype=answer.dtype, device=answer.device).reshape(-1, *answer.shape)
    parts = []
    for some in torch.split(units, chunk):
        grads = torch.autograd.grad(answer, parameters, some, is_grads_batched=True, retain_graph=True)
        parts.append(torch.cat([grad.flatten(1) for grad in grads], dim=1))
    return torch.cat(parts)


def _check(objective: Objective, noisy: Tensor, gradients: Mapping[str, Tensor], names: tuple[str, ...]) -> None:
    if objective.error != "squared":
        raise FedsimError(
            f"error = {objective.error!r}: the gradient is linear in the residual for the squared error only. "
            "Use error = 'squared'."
        )
    if len(noisy) != 1:
        raise FedsimError(f"noisy = {len(noisy)} examples: the residual of one is solved for. Give one example.")
    missing = [name for name in names if name not in gradients]
    if missing:
        raise FedsimError(f"gradients: {missing} are absent. Give the gradient of each parameter of the network.")
