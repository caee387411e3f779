"""The client's whole local training, simulated step by step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from adversary.inversion.schedule import BatchOrder, Stretch, plan_of, schedule
from adversary.inversion.simulator import Simulation
from adversary.inversion.simulators.gradient import SingleGradient
from adversary.network import Weights, gradients_behind, loss_gradient, momentum_gain, place
from fedsim.protocol import Knowledge, Observation


@dataclass(frozen=True)
class Unrolled:
    """The client's SGD replayed on the candidate: ``w^{j+1} = w^j - eta v_j``, differentiable throughout.

    Epochs, batch size, learning rate, momentum and weight decay are those that the server ordered. Time and
    memory grow with the number of local steps. What the server does not know is the order of batches:

    * ``given``: it is granted (``Knowledge.batch_order``), and the true images cause exactly the update observed;
    * ``shuffled``: a guess, shuffled anew in each epoch as clients do;
    * ``pooled``: the k batches of an epoch are one of all examples, at k times the learning rate;
    * ``copies``: each epoch has a copy of all inputs to itself, whose order then does not matter (Dimitrov et al.,
      TMLR 2022, arXiv:2206.12395); a prior is to tie the copies.

    With one batch an epoch the first three are the same.

    Attributes:
        batch_order: which of these.
        seed: of the order where it is guessed.
        recompute: keep only the weights between steps and compute each step twice: memory of one step in
            place of all, for more time.
    """

    batch_order: BatchOrder = "shuffled"
    seed: int = 0
    recompute: bool = False

    def bind(
        self, network: nn.Module, observation: Observation, knowledge: Knowledge, device: torch.device | str
    ) -> Simulation:
        if observation.kind == "gradient":
            return SingleGradient().bind(network, observation, knowledge, device)
        plan = plan_of(observation)
        order = schedule(self.batch_order, observation, knowledge, seed=self.seed)
        stretches = [Stretch(None if one.batch is None else one.batch.to(device), one.steps) for one in order.stretches]
        weights = place(network, observation.sent, device)
        return BoundUnrolled(
            network,
            weights,
            gradients_behind(observation, weights),
            tuple(stretches),
            learning_rate=plan.learning_rate_at(observation.round),
            momentum=plan.momentum,
            weight_decay=plan.weight_decay,
            copies=order.copies,
            recompute=self.recompute,
        )


@dataclass(frozen=True)
class BoundUnrolled:
    """``Unrolled`` of one observation.

    With momentum m and weight decay l, PyTorch's SGD moves by ``v_j = m v_{j-1} + g_j + l w^j``. The target has the
    decay of the weights sent taken off (``gradients_behind``), so what is simulated has too: ``l w^0``, which all
    steps have in common, is split off, and moves the weights by ``gain_j eta l w^0`` (``momentum_gain``).

    Attributes:
        network: in the client's mode.
        sent: ``w^0``.
        target: the update as a mean gradient.
        stretches: the local steps.
        learning_rate: eta.
        momentum: m.
        weight_decay: l.
        copies: of all inputs, one an epoch.
        recompute: trade time for memory.
        differentiable: whether the inputs' derivatives are to go through; without, a replay is cheap.
    """

    network: nn.Module
    sent: Weights
    target: list[Tensor]
    stretches: tuple[Stretch, ...]
    learning_rate: float
    momentum: float = 0.0
    weight_decay: float = 0.0
    copies: int = 1
    recompute: bool = False
    differentiable: bool = True

    def __call__(self, inputs: Tensor, labels: Tensor) -> list[Tensor]:
        """The mean gradient of the simulated training, less the decay of the weights sent."""
        if self.copies > 1:
            labels = labels.repeat(self.copies, *[1] * (labels.ndim - 1))
        velocity: list[Tensor] | None = None
        way: list[Tensor] | None = None  # (w^0 - w^j) / eta, without the part of l w^0
        done = 0
        for stretch in self.stretches:
            weights = self._reached(way, done)
            x, y = (inputs, labels) if stretch.batch is None else (inputs[stretch.batch], labels[stretch.batch])
            pull = self._gradient(weights, x, y)
            if way is not None and self.weight_decay:
                start = self.sent.parameters.values()
                pull = [g + self.weight_decay * (w - w0) for g, w, w0 in zip(pull, weights, start, strict=True)]
            way, velocity = self._moved(way, velocity, pull, stretch.steps)
            done += stretch.steps
        if way is None:
            raise ValueError("a training of no steps")
        gain = momentum_gain(self.momentum, done)
        return [total / gain for total in way]

    def _reached(self, way: Sequence[Tensor] | None, steps: int) -> list[Tensor]:
        """``w^j`` after so many steps."""
        start = list(self.sent.parameters.values())
        if way is None:
            return start
        kept = 1 - self.learning_rate * self.weight_decay * momentum_gain(self.momentum, steps)
        return [kept * w - self.learning_rate * d for w, d in zip(start, way, strict=True)]

    def _moved(
        self, way: Sequence[Tensor] | None, velocity: Sequence[Tensor] | None, pull: list[Tensor], steps: int
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Way and velocity after ``steps`` steps with the same gradient.

        For s steps, ``v' = m^s v + (1 + ... + m^(s-1)) g`` and ``d' = d + (m + ... + m^s) v + gain_s g``.
        """
        m, gain = self.momentum, momentum_gain(self.momentum, steps)
        kicks = sum(m**k for k in range(steps))
        pushed = pull if steps == 1 else [gain * g for g in pull]
        kicked = pull if steps == 1 else [kicks * g for g in pull]
        if velocity is not None and m:
            pushed = [p + m * kicks * v for p, v in zip(pushed, velocity, strict=True)]
            kicked = [k + m**steps * v for k, v in zip(kicked, velocity, strict=True)]
        if way is not None:
            pushed = [d + p for d, p in zip(way, pushed, strict=True)]
        return pushed, kicked

    def _gradient(self, weights: list[Tensor], inputs: Tensor, labels: Tensor) -> list[Tensor]:
        def at(inputs: Tensor, *parameters: Tensor) -> tuple[Tensor, ...]:
            with torch.enable_grad():
                here = Weights(dict(zip(self.sent.parameters, parameters, strict=True)), self.sent.buffers)
                return tuple(loss_gradient(self.network, here, inputs, labels, create_graph=self.differentiable))

        if not self.recompute or not self.differentiable:
            return list(at(inputs, *weights))
        found: tuple[Tensor, ...] = checkpoint(at, inputs, *weights, use_reentrant=False, preserve_rng_state=False)
        return list(found)
