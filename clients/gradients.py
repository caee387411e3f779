"""The gradient of one local step: of the mean loss, or as a defence that works inside training wants it.

Local training asks ``gradients`` for each step's gradient, whatever computes it. A Flower app of somebody else's
joins by asking it too; it needs nothing but a network, a batch and the number of examples that the client has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol

from torch import Tensor, autograd, nn
from torch.nn import functional

Loss = Callable[[Tensor, Tensor], Tensor]
"""Maps outputs [B, ...] and targets [B, ...] to the mean loss over the batch, a scalar."""


class StepRule(Protocol):
    """How the gradient of one local step comes about."""

    def __call__(
        self, model: nn.Module, inputs: Tensor, labels: Tensor, *, examples: int, loss: Loss
    ) -> tuple[list[Tensor | None], Tensor]:
        """As ``gradients``."""


def gradients_of(value: Tensor, parameters: Sequence[Tensor], *, keep_graph: bool = False) -> list[Tensor | None]:
    """The gradient of a scalar with respect to a model's parameters; ``None`` for what it does not depend on."""
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    found = iter(autograd.grad(value, trained, allow_unused=True, retain_graph=keep_graph))
    return [next(found) if parameter.requires_grad else None for parameter in parameters]


_RULE: ContextVar[StepRule | None] = ContextVar("rule of local steps", default=None)


def gradients(
    model: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    *,
    examples: int,
    loss: Loss = functional.cross_entropy,
    parameters: Sequence[Tensor] | None = None,
) -> tuple[list[Tensor | None], Tensor]:
    """The gradient of a local step on a batch, by the rule in force.

    Args:
        model: at the weights of the step, in the mode of training.
        inputs: as the network is fed, [B, ...].
        labels: [B, ...].
        examples: that the client has; of which the batch is a part.
        loss: mean over the batch.
        parameters: ``model.parameters()``, where they are at hand: a small network is computed in the time that it
            takes to look for them.

    Returns:
        A tensor for each of ``model.parameters()``, or ``None`` where the loss does not depend on it, and the
        mean loss, a scalar without a graph.
    """
    rule = _RULE.get()
    if rule is not None:
        return rule(model, inputs, labels, examples=examples, loss=loss)
    value = loss(model(inputs), labels)
    return gradients_of(value, list(model.parameters()) if parameters is None else parameters), value.detach()


@contextmanager
def during_training(rule: StepRule) -> Iterator[None]:
    """Put a rule in force for what this thread trains inside the ``with`` block."""
    token = _RULE.set(rule)
    try:
        yield
    finally:
        _RULE.reset(token)
