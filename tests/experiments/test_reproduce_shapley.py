"""The cost of Shapley values: records of games whose values are known, and pages that say what is reached."""

from __future__ import annotations

import argparse
from typing import Any

import pytest

from experiments.reproduce import shapley_cost as cost
from experiments.reproduce.shapley_page import METHODS, TIMED, page, wanted


def additive(coalition: frozenset[int]) -> float:
    return 1.0 + sum(player + 1 for player in coalition)


def game(round: int, clients: int = 5) -> cost.Game:
    members = [frozenset(i for i in range(clients) if mask >> i & 1) for mask in range(2**clients)]
    federation = cost.Federation("dirichlet 0.5", clients, 0)
    return cost.Game(federation, round, {coalition: additive(coalition) for coalition in members}, seconds=3.2)


def record(evaluations: int, ranks: float, **others: Any) -> dict[str, Any]:
    common = {"partition": "iid", "clients": 10, "seed": 0, "round": 4, "method": "gtg", "of": 1024}
    return {**common, "evaluations": evaluations, "rank_correlation": ranks, **others}


def test_in_an_additive_game_every_method_is_right() -> None:
    records = list(cost.appraise(game(4), draws=2))
    assert {r["method"] for r in records} == set(METHODS) - {"one_round"}
    for r in records:
        assert r["found"] == pytest.approx([1, 2, 3, 4, 5], abs=1e-12)
        assert r["rank_correlation"] == pytest.approx(1)
        assert r["error"] < 1e-12
        assert r["seconds"] == pytest.approx(0.1 * r["evaluations"])
    assert {r["evaluations"] for r in records if r["method"] in {"exact", "leave_one_out"}} == {32, 6}


def test_one_round_is_held_against_the_sum_of_the_rounds() -> None:
    (found,) = cost.across_rounds([game(4), game(5), game(0)])
    assert found["exact"] == pytest.approx([2, 4, 6, 8, 10])
    assert found["error"] == pytest.approx(0.5)
    assert (found["evaluations"], found["of"]) == (32, 64)


def test_the_page_says_what_is_reached_and_what_is_not() -> None:
    assert ": reached, 0.960 with at most 512" in wanted([record(512, 0.96), record(500, 0.98), record(400, 0.3)])
    assert "**not reached**" in wanted([record(513, 0.96)])
    assert not wanted([record(256, 0.96, of=512)])
    assert "**not reached**" in wanted([record(512, 0.94)])
    timed = {
        "method": TIMED,
        "seconds": 61.0,
        "all_seconds": [61.0, 62.0],
        "threads": 2,
        "cores": 2,
        "load": 2.0,
        "images": 1_000,
    }
    assert "**not reached**, 61.0 s with 2 threads" in wanted(
        [record(512, 0.96), {"partition": "iid", "clients": 10} | timed]
    )


def test_a_page_has_a_row_for_each_method() -> None:
    records = [*cost.appraise(game(4), draws=2), *cost.across_rounds([game(4), game(0)])]
    options = argparse.Namespace(warm_up=3, rounds=2, images=1_000, draws=2)
    text = page(records, options)
    assert all(f"| 5 | `{method}` | 1 |" in text for method in METHODS)


def test_the_other_partitions_are_played_with_ten_clients() -> None:
    jobs = cost.federations(argparse.Namespace(clients=[5, 10], seeds=2))
    assert [(job.partition, job.seed) for job in jobs if job.clients == 5] == [
        ("dirichlet 0.5", 0),
        ("dirichlet 0.5", 1),
    ]
    assert {job.partition for job in jobs if job.clients == 10} == set(cost.PARTITIONS)
    assert len(jobs) == 2 * (1 + len(cost.PARTITIONS))
