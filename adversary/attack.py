"""What an attack is: a name, what it needs, and how it turns observations into a reconstruction."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch
from torch import nn

from fedsim.errors import FedsimError
from fedsim.protocol import Grant, Kind, Knowledge, Observation, Reconstruction, TrainingPlan
from fedsim.registry import Registry

Progress = Callable[[int, float], None]
"""Called as ``progress(iterations so far, best objective so far)`` while an attack runs."""


ONE_GRADIENT: Mapping[str, frozenset[Grant]] = {
    "cross_entropy": frozenset(),
    "denoising": frozenset({"noise", "steps"}),
}
"""The ``objectives`` of attacks that match a single gradient, whatever its loss."""


@dataclass(frozen=True)
class Needs:
    """What an attack asks of a victim, so that a mismatch is found before anything is trained.

    Attributes:
        kinds: what a client may have returned: a trained ``model``, a ``gradient``, or either.
        max_examples: the most examples one update may rest on; ``None`` for any number.
        single_step: whether the update must come from one local step.
        grants: what the threat model must grant beyond the protocol.
        observations: the most observations of one victim that the attack uses together; ``None`` for any number.
        plan: whether it must be known what the server ordered, to simulate the local steps of a model.
        objectives: the losses that it inverts, by the names that plans have for them, and what must be granted of the
            random numbers of each.
        network: what a network and the shape of its input lack, each as a sentence; ``None`` for any network.
    """

    kinds: frozenset[Kind] = frozenset({"model", "gradient"})
    max_examples: int | None = None
    single_step: bool = False
    grants: frozenset[Grant] = frozenset()
    observations: int | None = 1
    plan: bool = False
    objectives: Mapping[str, frozenset[Grant]] = field(default_factory=lambda: {"cross_entropy": frozenset()})
    network: Callable[[nn.Module, tuple[int, int, int]], list[str]] | None = None

    def unmet(
        self,
        plan: TrainingPlan | None,
        examples: int,
        kind: Kind,
        granted: frozenset[Grant],
        count: int = 1,
        objective: str | None = None,
    ) -> list[str]:
        """What is missing, each as a sentence that says what was needed, what was found and the remedy.

        Args:
            plan: what the server orders; ``None`` if the app sends no plan.
            examples: examples behind one update.
            kind: what the clients return.
            granted: what the threat model grants, see ``Knowledge.grants``.
            count: observations of one victim given together.
            objective: what the clients train by; that of the plan by default.
        """
        objective = objective or (plan.loss if plan is not None else None)
        drawn: frozenset[Grant] = self.objectives.get(objective, frozenset()) if objective else frozenset()
        problems = self._not_inverted(kind, objective, examples)
        if (self.single_step or drawn) and kind == "model":
            problems += self._more_than_one_step(plan, examples)
        for grant in sorted((self.grants | drawn) - granted):
            problems.append(
                f"It needs to know the {grant.replace('_', ' ')}, which the threat model withholds. "
                f"Grant {grant!r} in the attack's knowledge or choose an attack that works without."
            )
        if self.plan and plan is None and kind == "model":
            problems.append(
                "It simulates the client's local steps, but no training plan was sent. "
                "Send TrainingPlan(...).to_config() as train_config."
            )
        return problems + self._too_many_together(plan, examples, kind, count, drawn)

    def _not_inverted(self, kind: Kind, objective: str | None, examples: int) -> list[str]:
        """What is wrong with the update itself: its kind, its loss, how many examples it rests on."""
        problems = []
        if kind not in self.kinds:
            wanted = " or ".join(sorted(self.kinds))
            remedy = "algorithm = 'fedsgd'" if "gradient" in self.kinds else "algorithm = 'fedavg'"
            problems.append(
                f"It needs clients that return a {wanted}, but these return a {kind}. Set {remedy} in [training]."
            )
        if objective is not None and objective not in self.objectives:
            problems.append(
                f"It inverts gradients of the loss {' or '.join(sorted(self.objectives))}, but the clients train by "
                f"{objective}. Choose another attack, or another [task]."
            )
        if self.max_examples is not None and examples > self.max_examples:
            problems.append(
                f"It needs an update of at most {_count(self.max_examples, 'example')}, "
                f"but this one rests on {examples}. Lower batch_size or choose another attack."
            )
        return problems

    def _too_many_together(
        self, plan: TrainingPlan | None, examples: int, kind: Kind, count: int, drawn: frozenset[Grant]
    ) -> list[str]:
        """What is wrong with several observations of one victim."""
        problems = []
        if drawn and count > 1:
            problems.append(
                f"It knows the {' and '.join(sorted(drawn))} of one observation, but {count} were given. "
                "Set observations = 1."
            )
        if self.observations is not None and count > self.observations:
            problems.append(
                f"It uses at most {_count(self.observations, 'observation')} of a victim together, "
                f"but {count} were given. Give fewer, or lower observations in [[attacks]]."
            )
        elif count > 1:
            problems += self._not_of_the_same_examples(plan, examples, kind, count)
        return problems

    @staticmethod
    def _not_of_the_same_examples(plan: TrainingPlan | None, examples: int, kind: Kind, count: int) -> list[str]:
        if plan is None:
            return []
        if kind == "gradient" and plan.batch_size is not None:
            return [
                f"It takes {count} observations to be of the same examples, but each gradient here is of a batch drawn "
                'anew. Set batch_size = "full" in [training], or observations = 1.'
            ]
        if kind == "model" and plan.steps(examples) * plan.batches_of(examples) < examples:
            return [
                f"It takes {count} observations to be of the same examples, but {plan.steps(examples)} local steps do "
                f"not go through all {examples}. Order more local_steps, or set observations = 1."
            ]
        return []

    @staticmethod
    def _more_than_one_step(plan: TrainingPlan | None, examples: int) -> list[str]:
        if plan is None:
            return [
                "It needs an update of one local step, but no training plan was sent, so the number is unknown. "
                "Send TrainingPlan(...).to_config() as train_config."
            ]
        if plan.steps(examples) == 1:
            return []
        return [
            f"It needs an update that rests on one local step, but the plan orders {plan.steps(examples)}. "
            "Order local_steps = 1 or algorithm = 'fedsgd' in [training]."
        ]


@runtime_checkable
class Attack(Protocol):
    """Turns what the server saw of one victim into images and labels.

    An attack receives nothing but observations and knowledge; where the truth lies it cannot know.
    """

    @property
    def needs(self) -> Needs:
        """What the attack asks of a victim."""

    def reconstruct(
        self,
        observations: Sequence[Observation],
        knowledge: Knowledge,
        *,
        seed: int,
        device: torch.device | str = "cpu",
        progress: Progress | None = None,
    ) -> Reconstruction:
        """Reconstruct the victim's examples.

        Args:
            observations: of one victim, in the order of rounds.
            knowledge: what the threat model grants.
            seed: all randomness derives from it; the same seed gives the same bytes.
            device: where to compute.
            progress: called now and then with iterations so far and the best objective so far.

        Raises:
            FedsimError: the attack's needs are not met.
        """


ATTACKS: Registry[Attack] = Registry("attack", "fedsim.attacks", imports=True)


def check(attack: Attack, observations: Sequence[Observation], knowledge: Knowledge) -> None:
    """Refuse observations that the attack cannot use.

    Raises:
        FedsimError: no observation, or observations of several victims, or a need is unmet.
    """
    if not observations:
        raise FedsimError("The attack was given no observation. Was the victim selected in a round that was recorded?")
    if len({(o.client, o.examples) for o in observations}) > 1:
        raise FedsimError(
            "The observations given together differ in client or number of examples. Give those of one victim."
        )
    problems: list[str] = []
    task = knowledge.task
    for observation in observations:
        plan = observation.plan
        if plan is not None and plan.loss != task.objective:
            raise FedsimError(
                f"Knowledge.task has the loss {task.objective!r}, but the plan orders {plan.loss!r}. "
                "Give the adversary the task that the clients train (Knowledge.task)."
            )
        found = attack.needs.unmet(
            plan, observation.examples, observation.kind, knowledge.grants(), len(observations), task.objective
        )
        problems += [sentence for sentence in found if sentence not in problems]
    if attack.needs.network is not None:
        problems += attack.needs.network(knowledge.model(), knowledge.input_shape)
    if problems:
        raise FedsimError(f"The attack cannot use this observation. {' '.join(problems)}")
    labels = knowledge.labels
    used = task.conditional or "labels" in attack.needs.grants
    if labels is not None and used and len(labels) != observations[0].examples:
        raise FedsimError(
            f"Knowledge.labels has {len(labels)} entries, but the victim used {observations[0].examples} examples. "
            "Give one label an example."
        )
    for name in sorted(attack.needs.objectives[task.objective]):
        granted = getattr(knowledge, name)
        if len(granted) != observations[0].examples:
            raise FedsimError(
                f"Knowledge.{name} is of {len(granted)} examples, but the victim used {observations[0].examples}. "
                "Give what was drawn for the batch of the victim's only step."
            )


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def failure(observation: Observation, knowledge: Knowledge, reason: str) -> Reconstruction:
    """What counts in place of a reconstruction that failed: uniform grey, and labels that are no class.

    Args:
        observation: of the victim.
        knowledge: for the shape of its images.
        reason: why, for ``stopped_by``.
    """
    return Reconstruction(
        images=torch.full((observation.examples, *knowledge.input_shape), 0.5),
        labels=torch.full((observation.examples,), -1, dtype=torch.int64),
        loss=float("nan"),
        stopped_by=reason,
    )
