"""The round loop: Flower's ``Strategy`` methods over a Flower ``Grid``, one round at a time.

Flower's own ``Strategy.start`` always begins at round 1 and cannot be stopped or resumed; this loop
calls the same methods in the same order, checks what comes back, and hands every round out.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from fedsim.arrays import Array, record_size, values, vector_of
from fedsim.errors import FedsimError
from server.inspection import Inspector, metric
from server.wrapping import client_at, client_of, in_order, records


@dataclass(frozen=True)
class Round:
    """What happened in a round.

    Attributes:
        number: from 1; round 0 is the model before training.
        arrays: the global arrays after the round.
        clients: who was asked to train.
        losses: local training loss of each client that answered well.
        reported: the numbers that each such client sent beside its loss and its number of examples.
        failures: why each other client's answer was not used.
        metrics: aggregated training metrics.
        evaluation: central evaluation of ``arrays``.
        client_evaluation: aggregated evaluation on the clients, where the strategy asks for it.
        seconds: wall-clock time.
        bytes_sent: size of the arrays sent, over all clients.
        bytes_received: size of the arrays received.
    """

    number: int
    arrays: ArrayRecord
    clients: tuple[int, ...] = ()
    losses: Mapping[int, float] = field(default_factory=dict)
    reported: Mapping[int, Mapping[str, float]] = field(default_factory=dict)
    failures: Mapping[int, str] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    evaluation: Mapping[str, float] = field(default_factory=dict)
    client_evaluation: Mapping[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    bytes_sent: int = 0
    bytes_received: int = 0


def federate(
    strategy: Strategy,
    grid: Grid,
    arrays: ArrayRecord,
    *,
    rounds: int,
    train_config: ConfigRecord,
    evaluate_config: ConfigRecord | None = None,
    evaluate_fn: Callable[[int, ArrayRecord], MetricRecord | None] | None = None,
    evaluate_every: int = 1,
    first_round: int = 1,
    timeout: float = 3600,
    min_share: float = 0.5,
    check_claims: bool = False,
) -> Iterator[Round]:
    """Train, a round an item.

    Args:
        strategy: any Flower strategy.
        grid: any Flower grid.
        arrays: the global arrays to start from.
        rounds: number of the last round.
        train_config: sent to clients; ``TrainingPlan.to_config()`` for fedsim's own.
        evaluate_config: sent to clients for evaluation.
        evaluate_fn: central evaluation, as Flower's ``start`` takes it.
        evaluate_every: rounds between evaluations; before the first, after the first and the last are always evaluated.
        first_round: where to go on; 1 also yields round 0, the model before training.
        timeout: seconds to wait for replies.
        min_share: share of the cohort that must answer well for the round to count.
        check_claims: whether to refuse replies that claim more examples than the batch ordered, or than the
            client's profile; asks each client for it once.

    Yields:
        Each finished round.

    Raises:
        FedsimError: fewer than ``min_share`` of a cohort answered well; the message says why.
    """
    inspector = Inspector(grid, train_config if check_claims else None)
    if first_round == 1:
        yield Round(0, arrays, evaluation=_central(evaluate_fn, 0, arrays))
    for number in range(first_round, rounds + 1):
        started = time.monotonic()
        done = _train(strategy, grid, number, arrays, _copy(train_config), inspector, timeout, min_share)
        arrays = done.arrays
        evaluated = _on_clients(strategy, grid, number, arrays, evaluate_config, timeout)
        due = number % evaluate_every == 0 or number in (1, rounds)
        central = _central(evaluate_fn, number, arrays) if due else {}
        seconds = time.monotonic() - started
        yield replace(done, evaluation=central, client_evaluation=evaluated, seconds=seconds)


def _train(
    strategy: Strategy,
    grid: Grid,
    number: int,
    arrays: ArrayRecord,
    config: ConfigRecord,
    inspector: Inspector,
    timeout: float,
    min_share: float,
) -> Round:
    """A round's training. The replies, a model each, end with this call and are not there in the next round."""
    messages = list(strategy.configure_train(number, arrays, config, grid))
    replies = in_order(grid.send_and_receive(messages, timeout=timeout)) if messages else []
    good, refused = inspector.sort(messages, replies, arrays)
    failures = {client_at(strategy, node): reason for node, reason in refused.items()}
    if messages and (not good or len(good) < min_share * len(messages)):
        reasons = "; ".join(f"client {client}: {reason}" for client, reason in sorted(failures.items())[:5])
        raise FedsimError(
            f"Round {number}: {len(good)} of {len(messages)} clients answered well, fewer than "
            f"min_share = {min_share}. {reasons}. Mend the clients or lower training.min_share."
        )
    aggregated, metrics = strategy.aggregate_train(number, good)
    return Round(
        number=number,
        arrays=arrays if aggregated is None else _like(aggregated, arrays),
        clients=tuple(sorted([client_of(reply) for reply in good] + list(failures))),
        losses={client_of(reply): loss for reply in good if (loss := metric(reply, "train-loss")) is not None},
        reported={client_of(reply): _reported(reply) for reply in good},
        failures=failures,
        metrics=_scalars(metrics),
        bytes_sent=_bytes_of(messages),
        bytes_received=_bytes_of(replies),
    )


def _reported(reply: Message) -> dict[str, float]:
    found: dict[str, float] = {}
    for record in records(reply, MetricRecord):
        found |= _scalars(record)
    return {key: value for key, value in found.items() if key not in ("num-examples", "train-loss")}


def _like(aggregated: ArrayRecord, before: ArrayRecord) -> ArrayRecord:
    """The aggregate in the model's own types: a mean of integer counters comes back as floats."""
    found_packed, before_packed = vector_of(aggregated), vector_of(before)
    if found_packed and before_packed and found_packed[0].dtype == before_packed[0].dtype:
        return aggregated
    record = ArrayRecord()
    for name, array in aggregated.items():
        found, dtype = values(array), np.dtype(before[name].dtype)
        if found.dtype != dtype and np.issubdtype(dtype, np.integer):
            found = found.round()
        record[name] = Array(np.asarray(found, dtype=dtype))
    return record


def _on_clients(
    strategy: Strategy, grid: Grid, number: int, arrays: ArrayRecord, config: ConfigRecord | None, timeout: float
) -> dict[str, float]:
    messages = list(strategy.configure_evaluate(number, arrays, _copy(config or ConfigRecord()), grid))
    if not messages:
        return {}
    replies = in_order(grid.send_and_receive(messages, timeout=timeout))
    return _scalars(strategy.aggregate_evaluate(number, [reply for reply in replies if reply.has_content()]))


def _central(
    evaluate_fn: Callable[[int, ArrayRecord], MetricRecord | None] | None, number: int, arrays: ArrayRecord
) -> dict[str, float]:
    return _scalars(evaluate_fn(number, arrays)) if evaluate_fn else {}


def _scalars(metrics: MetricRecord | None) -> dict[str, float]:
    return {k: float(v) for k, v in (metrics or {}).items() if isinstance(v, int | float)}


def _copy(config: ConfigRecord) -> ConfigRecord:
    """Strategies write the round into what they are given."""
    return ConfigRecord(dict(config))


def _bytes_of(messages: Iterable[Message]) -> int:
    """Size of all arrays; a record that many messages share is measured once."""
    known: dict[int, int] = {}
    total = 0
    for message in messages:
        for record in records(message, ArrayRecord) if message.has_content() else ():
            if id(record) not in known:
                known[id(record)] = record_size(record)
            total += known[id(record)]
    return total
