"""The campaigns of a configuration: checked before the run, and carried out on what was overheard."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np

from adversary import ATTACKS
from adversary.campaign import Campaign, refuse, resolve_clients, resolve_rounds
from adversary.diffusion.classes import unreadable
from experiments.experiment import Experiment
from experiments.tables import AttackTable, Config
from fedsim.protocol import Kind, Observation, Reconstruction
from fedsim.tasks import Draws

RANDOM = frozenset(Draws._fields)
"""Grants of random numbers, which only some tasks draw."""

Unit = Sequence[Sequence[Observation]]
"""Victims that are attacked at once; of each its observations, in the order of rounds."""


def campaigns(experiment: Experiment) -> list[Campaign]:
    """The campaigns of a configuration, each checked against what the protocol will show it.

    Raises:
        FedsimError: unknown attack or parameter, rounds or clients that are not there, or an attack whose
            needs the protocol or the threat model does not meet.
    """
    found = [campaign_of(experiment.config, table) for table in experiment.config.attacks]
    for campaign in found:
        _check(campaign, experiment)
    return found


def campaign_of(config: Config, table: AttackTable) -> Campaign:
    """The campaign that an ``[[attacks]]`` table describes.

    Raises:
        FedsimError: unknown attack or parameter, or rounds or clients that are not there.
    """
    clients, per_round = resolve_clients(table.clients, config.data.clients)
    return Campaign(
        attack=ATTACKS.create(table.name, **table.parameters),
        label=table.label or table.name,
        rounds=resolve_rounds(table.rounds, config.training.rounds),
        clients=clients,
        per_round=per_round,
        grants=frozenset(table.grants),
        observations=table.observations,
        at_once=table.at_once,
        compiled=table.compiled,
    )


def _check(campaign: Campaign, experiment: Experiment) -> None:
    """Every client that may be attacked has to meet the attack's needs."""
    plan = experiment.plan
    kind: Kind = "gradient" if plan.algorithm == "fedsgd" else "model"
    problems: list[str] = []
    inverted = plan.loss in campaign.attack.needs.objectives
    if inverted and campaign.attack.needs.network is not None:
        problems += campaign.attack.needs.network(experiment.model(), experiment.data.input_shape)
    sizes = experiment.shards.sizes
    for size in np.unique(sizes if campaign.clients is None else sizes[list(campaign.clients)]).tolist():
        examples = plan.batches_of(size) if kind == "gradient" else size
        found = campaign.attack.needs.unmet(plan, examples, kind, campaign.grants, campaign.observations)
        problems += [problem for problem in found if problem not in problems]
    if inverted and experiment.task.conditional and "labels" not in campaign.grants:
        problems += unreadable(experiment.model())
    for grant in sorted(campaign.grants & RANDOM - experiment.task.drawn):
        problems.append(
            f"It is granted the {grant}, and the task {experiment.config.task.name!r} draws none. "
            f"Take {grant!r} out of its grants, or choose another [task]."
        )
    problems += campaign.batching_problems(experiment.device)
    refuse(problems[:3], campaign.label)


def reconstruct(
    experiment: Experiment, table: AttackTable, observation: Observation, earlier: Sequence[Observation] = ()
) -> Reconstruction:
    """Attack one victim; the result depends on the arguments alone, wherever and whenever it is computed.

    Args:
        experiment: for the threat model's grants and the seed.
        table: the attack.
        observation: of the round attacked.
        earlier: of the same victim, to be used together with it.
    """
    return reconstruct_unit(experiment, table, [[*earlier, observation]])[0]


def reconstruct_unit(experiment: Experiment, table: AttackTable, unit: Unit) -> list[Reconstruction]:
    """Attack the victims of a unit; the results depend on the arguments alone, as those of ``reconstruct``.

    Args:
        experiment: for the threat model's grants and the seed.
        table: the attack.
        unit: victims of one round, as ``Campaign.units`` has them.
    """
    campaign = campaign_of(experiment.config, table)
    knowledge = [experiment.knowledge(campaign.grants, client=seen[-1].client, round=seen[-1].round) for seen in unit]
    return campaign.run_unit(unit, knowledge, seed=experiment.config.seed, device=experiment.device)


@functools.lru_cache(maxsize=1)
def _experiment_of(config: str) -> Experiment:
    return Experiment(Config.model_validate_json(config))


def reconstruct_elsewhere(config: str, table: AttackTable, unit: Unit) -> list[Reconstruction]:
    """``reconstruct_unit`` in a worker process, which makes the experiment's parts once."""
    return reconstruct_unit(_experiment_of(config), table, unit)
