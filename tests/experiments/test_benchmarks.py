"""All contenders of a benchmark train the same: else their seconds could not be compared."""

import os
from contextlib import closing
from pathlib import Path

import pytest
import torch

from experiments.benchmarks.bare import add, like
from experiments.benchmarks.contender import Entry, entry
from experiments.benchmarks.tables import markdown
from experiments.benchmarks.turns import Measured, Part, take_turns
from experiments.benchmarks.workloads import Workload
from fedsim.errors import FedsimError
from fedsim.protocol import Arrays

SHUFFLED = Workload("shuffled", local_steps=3, batch_size=16, clients=100, clients_per_round=5)
# Everybody with the whole shard a step: it makes no difference who shuffles or selects how.
WHOLE = Workload("whole", local_steps=2, batch_size=100, clients=40, clients_per_round=40, learning_rate=0.5)


def trained(name: str, workload: Workload, rounds: int = 3) -> Arrays:
    missing = entry(name).missing()
    if missing is not None:
        reason = f"NOT TESTED: {name}: {missing}"
        if os.environ.get("CI"):
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)
    with closing(entry(name).make(workload)) as contender:
        for _ in range(rounds):
            contender.round()
        return {key: tensor.clone() for key, tensor in contender.arrays().items()}


def assert_same(found: Arrays, expected: Arrays) -> None:
    assert list(found) == list(expected)
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, atol=1e-5, rtol=0, msg=lambda why, name=name: f"{name}: {why}")


@pytest.fixture(scope="module")
def bare() -> Arrays:
    return trained("bare", SHUFFLED)


def test_a_round_of_the_bare_loop_changes_the_arrays(bare: Arrays) -> None:
    start = SHUFFLED.experiment().model().state_dict()
    assert max(float((bare[name] - tensor).abs().max()) for name, tensor in start.items()) > 1e-2


@pytest.mark.parametrize("name", ["pool", "local-1", "local-2", "ray-2"])
def test_who_cuts_the_same_batches_ends_with_the_arrays_of_the_bare_loop(name: str, bare: Arrays) -> None:
    assert_same(trained(name, SHUFFLED), bare)


@pytest.mark.parametrize("name", ["pool", "local-1", "pfl", pytest.param("flower", marks=pytest.mark.slow)])
def test_with_whole_shards_and_all_clients_everybody_ends_with_the_arrays_of_the_bare_loop(name: str) -> None:
    assert_same(trained(name, WHOLE), trained("bare", WHOLE))


def test_counters_are_averaged_as_floats_and_rounded() -> None:
    states = [{"w": torch.tensor([1.0]), "count": torch.tensor(n)} for n in (3, 4)]
    mean = {"w": torch.zeros(1), "count": torch.zeros(())}
    for state, weight in zip(states, (0.25, 0.75), strict=True):
        add(mean, state, weight)
    found = like(mean, states[0])
    assert (found["w"].item(), found["count"].item(), found["count"].dtype) == (1.0, 4, torch.int64)


def test_who_cannot_take_part_is_named_with_the_reason_and_the_others_are_measured(tmp_path: Path) -> None:
    workload = Workload("one", local_steps=1, batch_size=8, clients=100, clients_per_round=2)
    absent = Entry("absent", "nowhere:Nobody", needs={"no_such_package": "pip install it"})
    broken = Entry("broken", "experiments.benchmarks.engine:Engine", {"name": "warp"})
    parts = [
        Part(name, who, workload) for name, who in (("bare", entry("bare")), ("absent", absent), ("broken", broken))
    ]
    done: list[str] = []
    bare, missing, failed = take_turns(parts, turns=2, rounds=2, logs=tmp_path, step=done.append)
    assert [len(turn) for turn in bare.turns] == [2, 2]
    assert bare.farewell is not None
    assert bare.problem is None
    assert missing.problem == "no_such_package is not installed: pip install it"
    assert failed.problem is not None
    assert "engine 'warp' is not known" in failed.problem
    assert "NOT MEASURED to the end: absent: no_such_package" in markdown([bare, missing, failed], ["bare"])
    assert len(done) == len(parts) * 3


def test_a_ratio_is_the_median_over_adjacent_turns() -> None:
    """A machine that is ten times slower in one turn of both does not show."""
    fast = Measured("fast", "", turns=[[1.0], [10.0], [1.0]])
    slow = Measured("slow", "", turns=[[2.0, 2.0, 9.0], [20.0], [2.0]])
    assert fast.faster_than(slow) == 2.0
    assert slow.faster_than(fast) == 0.5


def test_a_contender_that_nobody_knows_is_an_error_with_the_nearest_name() -> None:
    with pytest.raises(FedsimError, match="local-2"):
        entry("locl-2")
