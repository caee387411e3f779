"""The adaptive adversary: an attack that knows which defences the clients use."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from adversary import labels as rules
from adversary.adaptive_labels import label_rule
from adversary.attack import ATTACKS, Needs, Progress, check
from adversary.defended import View, view
from adversary.inversion import Candidate, Inversion, Searching, Simulation, Simulator, TotalVariation
from adversary.inversion.distance import Cosine
from adversary.inversion.prior import Observing, Prior, Together
from adversary.inversion.simulator import Renewing, copies_in
from adversary.network import build, mode_of
from fedsim.errors import FedsimError
from fedsim.models import parameter_names
from fedsim.protocol import DeclaredDefence, Knowledge, Observation, Reconstruction

NEIGHBOURS_DIFFER = 0.1
"""Mean absolute difference of neighbouring pixels in natural images, in [0, 1]: the scale of the prior under noise."""

SMOOTH_WHERE_UNTOLD = 0.02
"""Weight of the prior where an update tells little, in units of unknown pixels over entries that tell."""


@ATTACKS.register("adaptive")
def adaptive(*, attack: str = "inverting_gradients", **parameters: Any) -> Adaptive:
    """Run an attack as it is and once more with knowledge of the defences, and keep the better.

    Better is what the objective that knows the defences says, which the adversary can tell; the truth it cannot. It
    so never keeps a reconstruction that explains what was sent worse than that of the attack which knows nothing. It
    costs two attacks, unless the defences tell it nothing: then it is the attack itself, bit for bit.

    Args:
        attack: the attack by name; one that is put together from the parts of ``adversary.inversion``.
        parameters: of that attack.

    Raises:
        FedsimError: the attack has insides of its own, which cannot be told of defences.
    """
    made = ATTACKS.create(attack, **parameters)
    if not isinstance(made, Inversion):
        raise FedsimError(
            f"The attack {attack!r} cannot be adaptive: it is no inversion by optimisation. Choose another attack."
        )
    return Adaptive(made)


@dataclass(frozen=True)
class Adaptive:
    """An inversion, told of the defences.

    Attributes:
        blind: the attack without that knowledge.
    """

    blind: Inversion

    @property
    def needs(self) -> Needs:
        """Those of the attack, and to know the defences."""
        return replace(self.blind.needs, grants=self.blind.needs.grants | {"defences"})

    def reconstruct(
        self,
        observations: Sequence[Observation],
        knowledge: Knowledge,
        *,
        seed: int,
        device: torch.device | str = "cpu",
        progress: Progress | None = None,
    ) -> Reconstruction:
        check(self, observations, knowledge)
        naive = self.blind.reconstruct(observations, knowledge, seed=seed, device=device, progress=progress)
        informed = self.informed(observations, knowledge)
        if informed is None:
            return naive

        def going_on(iterations: int, loss: float) -> None:
            if progress is not None:
                progress(naive.iterations + iterations, loss)

        other = informed.reconstruct(observations, knowledge, seed=seed, device=device, progress=going_on)
        found = [replace(one, loss=_judged(informed, one, observations, knowledge, device)) for one in (naive, other)]
        # A failed attack's objective is NaN, which is less than nothing.
        best = found[0] if found[0].loss < found[1].loss or found[1].loss != found[1].loss else found[1]
        return replace(best, iterations=naive.iterations + other.iterations, seconds=naive.seconds + other.seconds)

    def informed(self, observations: Sequence[Observation], knowledge: Knowledge) -> Inversion | None:
        """The attack that knows the defences; ``None`` if they tell it nothing."""
        defences = knowledge.defences or ()
        network = build(knowledge, mode_of(observations[0].plan), "cpu")
        views = [view(observation, network, defences) for observation in observations]
        if all(one.plain for one in views):
            return None
        rule = label_rule(self.blind.labels, views[0], network, knowledge.classes)
        return replace(
            self.blind,
            labels=rule,
            simulator=Knowing(self.blind.simulator, tuple(defences)),
            prior=self._prior(views, observations[0].examples, knowledge),
        )

    def _prior(self, views: Sequence[View], examples: int, knowledge: Knowledge) -> Prior | Observing | None:
        """With noise, the smoothness that makes the objective that of the most likely images.

        Of ``|s - t|^2 / (2 sigma^2) + sum |differences of neighbours| / b``, times ``sigma^2 / |t|^2``, the first term
        is the cosine's distance (half of the relative Euclidean one) for updates of one length; the second is total
        variation, a mean over D values, with the weight ``D sigma^2 / (b |t|^2)``.

        Where entries were left out there is more to choose from, and the smooth is chosen: by the share left out, and
        by the number of unknowns that there are to an entry that tells. How much was tried on gradients pruned by 70 to
        99 % and thinned out by 70 %, of CIFAR-10 images and a `cnn`; the best weights there were 3e-3 to 1e-2. Where
        the smallest entries were left out it is the square of their share, as the first percents took next to nothing:
        with the share itself DLG's pictures of gradients pruned by 1 % came to 37 dB, with its square to 55.
        """
        pixels = examples * math.prod(knowledge.input_shape)
        weight = sum(_smoothness(one, pixels) for one in views) / len(views)
        if weight == 0:
            return self.blind.prior
        smooth = TotalVariation(weight if isinstance(self.blind.distance, Cosine) else 2 * weight)
        return smooth if self.blind.prior is None else Together((smooth, self.blind.prior))


def _smoothness(seen: View, pixels: int) -> float:
    """Weight of total variation that one update asks for, of ``pixels`` values in all."""
    each = pixels / max(seen.entries, 1)
    noisy = seen.share_of_noise * each / NEIGHBOURS_DIFFER
    untold = seen.share_left_out ** (2 if seen.bounded else 1)
    return noisy + SMOOTH_WHERE_UNTOLD * min(0.5, each) * untold


@dataclass(frozen=True)
class Knowing:
    """A simulator whose updates are compared as far as the defences let them tell.

    Attributes:
        simulator: of updates without defences.
        defences: of the clients.
    """

    simulator: Simulator
    defences: tuple[DeclaredDefence, ...]

    def bind(
        self, network: nn.Module, observation: Observation, knowledge: Knowledge, device: torch.device | str
    ) -> BoundKnowing | SearchingKnowing:
        seen = view(observation, network, self.defences)
        told = [seen.told[name].to(device) for name in parameter_names(network)]
        inner = self.simulator.bind(network, observation, knowledge, device)
        most = [
            float((t * seen.factor)[m].abs().min()) if seen.bounded and bool(m.any()) else math.inf
            for t, m in zip(inner.target, told, strict=True)
        ]
        if isinstance(inner, Searching):
            return SearchingKnowing(inner, told, most, seen.factor, seen.scaled)
        return BoundKnowing(inner, told, most, seen.factor, seen.scaled)


@dataclass(frozen=True)
class BoundKnowing:
    """``Knowing`` of one observation.

    Of a simulated update the entries that tell remain, at the observed length if scale is lost; of those that were left
    out what goes beyond the largest that can have been, which is to be zero.

    Attributes:
        inner: of the simulator without defences.
        told: bool, the entries that tell, a tensor each of the network's.
        most: the largest absolute value that an entry left out can have had, infinity if nothing is known.
        factor: that what was observed is to be multiplied by.
        scaled: whether its scale is known.
    """

    inner: Simulation
    told: list[Tensor]
    most: list[float]
    factor: float
    scaled: bool

    @property
    def target(self) -> list[Tensor]:
        """What was observed of the entries that tell."""
        return [t * m * self.factor for t, m in zip(self.inner.target, self.told, strict=True)]

    @property
    def copies(self) -> int:
        """Copies of the inputs that the simulator asks for."""
        return copies_in(self.inner)

    def renew(self, inputs: Tensor, labels: Tensor, iteration: int) -> None:
        """Let the simulator set its target anew."""
        if isinstance(self.inner, Renewing):
            self.inner.renew(inputs, labels, iteration)

    def __call__(self, inputs: Tensor, labels: Tensor) -> list[Tensor]:
        simulated = zip(self.inner(inputs, labels), self.told, self.most, strict=True)
        found = [s.where(m, s - s.clamp(-most, most)) for s, m, most in simulated]
        if self.scaled:
            return found
        ratio = _length(self.target) / _length(found).clamp_min(1e-15)
        return [s * ratio for s in found]


@dataclass(frozen=True)
class SearchingKnowing:
    """``Knowing`` of a simulation with an unknown of its own; attributes as those of ``BoundKnowing``."""

    inner: Searching
    told: list[Tensor]
    most: list[float]
    factor: float
    scaled: bool

    @property
    def target(self) -> list[Tensor]:
        """What was observed of the entries that tell."""
        return [t * m * self.factor for t, m in zip(self.inner.target, self.told, strict=True)]

    def start(self) -> Tensor:
        return self.inner.start()

    def project(self, unknown: Tensor) -> None:
        self.inner.project(unknown)

    def at(self, unknown: Tensor) -> BoundKnowing:
        return BoundKnowing(self.inner.at(unknown), self.told, self.most, self.factor, self.scaled)


def _length(tensors: Sequence[Tensor]) -> Tensor:
    return torch.stack([t.square().sum() for t in tensors]).sum().clamp_min(1e-30).sqrt()


def _judged(
    informed: Inversion,
    found: Reconstruction,
    observations: Sequence[Observation],
    knowledge: Knowledge,
    device: torch.device | str,
) -> float:
    """What the objective that knows the defences says of a reconstruction as it is returned."""
    if found.loss != found.loss:
        return float("nan")
    problem = replace(informed, labels=rules.optimised).problem(observations, knowledge, seed=0, device=device)
    problem = replace(problem, labels=found.labels.to(device))
    inputs = knowledge.normalise(found.images).to(device).repeat(problem.copies, 1, 1, 1)
    candidate = Candidate(inputs, unknowns=problem.start(0).unknowns)
    problem.renew(candidate, 0)
    return float(problem.objective(candidate).detach())
