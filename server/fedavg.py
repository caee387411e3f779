"""Flower's ``FedAvg`` without its detours."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import cast

import numpy as np
from flwr.app import ArrayRecord, Message, MetricRecord
from flwr.serverapp import strategy as flower
from flwr.serverapp.strategy.strategy_utils import aggregate_metricrecords

from fedsim import arrays as packing
from fedsim.arrays import Array, Values, values, vector_of
from server.wrapping import records


class FedAvg(flower.FedAvg):
    """The mean of the clients' models, weighted by examples (McMahan et al., AISTATS 2017).

    Bit for bit Flower's ``FedAvg``, to which it leaves replies that are not all alike: one record of the same
    arrays and one of the same numbers each. Flower's copies every array that it adds, writes the mean into bytes and
    reads it again, and copies records to look at them, which for small models takes longer than the sum.
    """

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        given = list(replies)
        arrays = [records(reply, ArrayRecord) for reply in given if reply.has_content()]
        metrics = [records(reply, MetricRecord) for reply in given if reply.has_content()]
        simple = self.train_metrics_aggr_fn is aggregate_metricrecords and len(arrays) == len(given) > 0
        if not simple or not _alike(arrays) or not _alike(metrics) or not self._weighable(metrics):
            return super().aggregate_train(server_round, given)
        claims = [cast("float", metric[self.weighted_by_key]) for (metric,) in metrics]
        total = sum(claims)
        weights = [claim / total for claim in claims]
        mean = _mean_record([record for (record,) in arrays], weights)
        numbers = MetricRecord()
        for key in metrics[0][0]:
            if key != self.weighted_by_key:
                own = [cast("float", metric[key]) for (metric,) in metrics]
                first, *others = (number * weight for number, weight in zip(own, weights, strict=True))
                numbers[key] = sum(others, first)
        return mean, numbers

    def _weighable(self, metrics: Sequence[Sequence[MetricRecord]]) -> bool:
        return all(
            self.weighted_by_key in metric and not any(isinstance(value, list) for value in metric.values())
            for (metric,) in metrics
        )


def _alike(found: Sequence[Sequence[ArrayRecord]] | Sequence[Sequence[MetricRecord]]) -> bool:
    if any(len(one) != 1 for one in found):
        return False
    keys = set(found[0][0])
    return all(set(one[0]) == keys for one in found)


def _mean_record(arrays: Sequence[ArrayRecord], weights: Sequence[float]) -> ArrayRecord:
    packed = [vector_of(record) for record in arrays]
    vectors = [found[0] for found in packed if found is not None]
    first = packed[0]
    if first is not None and len(vectors) == len(packed) and all(found and found[1] == first[1] for found in packed):
        return packing.ArrayRecord(_mean(vectors, weights), first[1])
    mean = ArrayRecord()
    for name in arrays[0]:
        mean[name] = Array(_mean([values(record[name]) for record in arrays], weights))
    return mean


def _mean(tensors: Sequence[Values], weights: Sequence[float]) -> Values:
    """Term by term, in the order given: sums of floats depend on it."""
    total = tensors[0] * weights[0]
    for tensor, weight in zip(tensors[1:], weights[1:], strict=True):
        total += tensor * weight
    return np.asarray(total)
