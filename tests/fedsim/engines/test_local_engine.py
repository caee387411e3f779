"""The ``local`` engine, over threads and over forked processes: the same answers, and nobody held up by who hangs."""

import os
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Array as FlowerArray
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from torch.nn import functional

from clients.training import local_steps
from experiments import Experiment
from fedsim.arrays import Array, from_record, to_record, wire_size
from fedsim.data import normalised
from fedsim.engines import LocalGrid
from fedsim.errors import FedsimError
from server.loop import federate
from tests.fedsim.engines import odd_clients

CLIENTS = 6


@pytest.fixture(params=["threads", "processes"])
def odd(request: pytest.FixtureRequest) -> Iterator[LocalGrid]:
    grid = LocalGrid(odd_clients.make_app, CLIENTS, workers=2, processes=request.param == "processes")
    yield grid
    grid.close()


@pytest.fixture
def forked() -> Iterator[LocalGrid]:
    grid = LocalGrid(odd_clients.make_app, CLIENTS, workers=2, processes=True)
    yield grid
    grid.close()


def send(
    grid: LocalGrid, clients: Sequence[int] = range(CLIENTS), timeout: float | None = None, **order: Any
) -> list[Message]:
    arrays = ArrayRecord([np.arange(6, dtype=np.float32).reshape(2, 3)])
    content = RecordDict({"arrays": arrays, "config": ConfigRecord(order)})
    return list(grid.send_and_receive([Message(content, client, "train") for client in clients], timeout=timeout))


def calls(replies: Sequence[Message]) -> dict[int, int]:
    return {reply.metadata.src_node_id: int(reply.content.metric_records["metrics"]["calls"]) for reply in replies}  # type: ignore[arg-type]


def experiment(**training: Any) -> Experiment:
    return Experiment.of({
        "data": {"name": "fashion_mnist_small", "train_size": 240, "test_size": 20, "clients": CLIENTS},
        "model": {"name": "lenet"},
        "training": {"rounds": 3, "batch_size": 8, "learning_rate": 0.1} | training,
        "selection": {"clients_per_round": 4},
    })  # fmt: skip


def final(one: Experiment, workers: int, *, processes: bool) -> dict[str, bytes]:
    grid = LocalGrid(one.client_app, CLIENTS, workers, processes=processes)
    plan = one.plan.to_config()
    arrays = to_record(one.model().state_dict())
    *_, last = federate(one.strategy(), grid, arrays, rounds=one.config.training.rounds, train_config=plan)
    grid.close()
    return {name: tensor.numpy().tobytes() for name, tensor in from_record(last.arrays).items()}


@pytest.mark.parametrize("training", [{}, {"algorithm": "fedsgd"}, {"momentum": 0.9, "precision": "bf16"}])
def test_the_bytes_are_the_same_over_threads_and_processes(training: dict[str, Any]) -> None:
    one = experiment(**training)
    expected = final(one, 1, processes=False)
    assert expected == final(one, 2, processes=False) == final(one, 1, processes=True) == final(one, 2, processes=True)


def test_who_hangs_is_too_late_and_nobody_else(odd: LocalGrid) -> None:
    """Not even those who wait for the same worker, nor anybody in the rounds that follow."""
    started = time.monotonic()
    replies = send(odd, timeout=1, do="sleep", client=1)
    assert [reply.metadata.src_node_id for reply in replies] == [0, 2, 3, 4, 5]
    replies = send(odd, timeout=1, do="sleep", client=4)
    assert [reply.metadata.src_node_id for reply in replies] == [0, 1, 2, 3, 5]
    assert calls(send(odd)) == {0: 3, 1: 2, 2: 3, 3: 3, 4: 2, 5: 3}
    assert time.monotonic() - started < 10


def test_time_runs_from_a_clients_turn() -> None:
    """Six clients of a fifth of a second are in time for half a second, with one worker to do them all."""
    for processes in (False, True):
        grid = LocalGrid(odd_clients.make_app, CLIENTS, workers=1, processes=processes)
        assert len(send(grid, timeout=0.5, do="nap")) == CLIENTS
        grid.close()


def test_a_process_that_is_killed_is_replaced_and_its_client_done_again(forked: LocalGrid, tmp_path: Path) -> None:
    before = forked.pids
    replies = send(forked, do="crash once", client=2, marker=str(tmp_path / "crashed"))
    assert calls(replies) == dict.fromkeys(range(CLIENTS), 1)
    assert len(set(forked.pids) - set(before)) == 1
    os.kill(forked.pids[0], signal.SIGKILL)
    assert calls(send(forked)) == dict.fromkeys(range(CLIENTS), 2)


def test_who_kills_every_process_is_given_up_alone(forked: LocalGrid) -> None:
    replies = send(forked, do="crash", client=3)
    assert [reply.metadata.src_node_id for reply in replies if reply.has_error()] == [3]
    assert "died with this client in it" in replies[3].error.reason


def test_the_processes_end_with_the_grid() -> None:
    grid = LocalGrid(odd_clients.make_app, CLIENTS, workers=2, processes=True)
    pids = grid.pids
    assert all(Path(f"/proc/{pid}").exists() for pid in pids)
    grid.close()
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_processes_that_cannot_be_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedsim.engines.local.can_fork", lambda: False)
    with pytest.raises(FedsimError, match=r"engine\.processes = True: .*cannot fork.*Leave it out"):
        LocalGrid(odd_clients.make_app, CLIENTS, processes=True)


@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 3, 4), (1, 1, 100_000)])
@pytest.mark.parametrize("dtype", ["float32", "float64", "int64", "bool"])
def test_an_array_is_what_flower_makes_of_its_values(shape: tuple[int, ...], dtype: str) -> None:
    values = np.asarray(np.random.default_rng(0).integers(0, 5, shape), dtype=dtype)
    ours, theirs = Array(values), FlowerArray(values)
    assert ours == theirs
    assert wire_size(Array(values)) == wire_size(theirs) == len(theirs.data)
    assert ours.object_id == theirs.object_id
    assert (ours.numpy() == values).all()
    assert not np.shares_memory(ours.numpy(), values)


@pytest.mark.parametrize("options", [{}, {"momentum": 0.9, "weight_decay": 0.01}])
def test_local_steps_are_those_of_torchs_sgd(options: dict[str, float]) -> None:
    one = experiment(**options)
    data, model, theirs = one.shard(0), one.model(), one.model()
    local_steps(model, data, (one.data.mean, one.data.std), one.batches(0, 1), one.plan, round=1)
    optimiser = torch.optim.SGD(theirs.parameters(), 0.1, **options)  # type: ignore[arg-type]
    for chosen in one.batches(0, 1):
        optimiser.zero_grad()
        logits = theirs(normalised(data.images[chosen], one.data.mean, one.data.std))
        functional.cross_entropy(logits, data.labels[chosen]).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    assert all(a.equal(b) for a, b in zip(model.parameters(), theirs.parameters(), strict=True))


def test_bf16_is_near_single_precision_and_not_the_same() -> None:
    exact, rough = (experiment(precision=precision) for precision in ("float32", "bf16"))
    moved = {}
    for name, one in (("exact", exact), ("rough", rough)):
        model = one.model()
        local_steps(model, one.shard(0), (one.data.mean, one.data.std), one.batches(0, 1), one.plan, round=1)
        pairs = zip(model.parameters(), one.model().parameters(), strict=True)
        moved[name] = torch.cat([(after - before).detach().flatten() for after, before in pairs])
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())
    error = (moved["exact"] - moved["rough"]).norm() / moved["exact"].norm()
    assert 1e-4 < error < 0.05  # bfloat16 has 8 bits of precision: 2^-8 = 0.004 an operation


def quick(grid: LocalGrid) -> None:
    """Until the processes are known to be quick enough for bunches."""
    for _ in range(3):
        send(grid)
    assert grid._bunch(CLIENTS) == CLIENTS // 2


def test_in_a_bunch_who_hangs_is_too_late_and_nobody_else(forked: LocalGrid) -> None:
    quick(forked)
    replies = send(forked, timeout=1, do="sleep", client=1)
    assert [reply.metadata.src_node_id for reply in replies] == [0, 2, 3, 4, 5]
    assert calls(send(forked)) == {0: 5, 1: 4, 2: 5, 3: 5, 4: 5, 5: 5}


def test_in_a_bunch_who_kills_every_process_is_given_up_alone(forked: LocalGrid) -> None:
    quick(forked)
    replies = send(forked, do="crash", client=3)
    assert [reply.metadata.src_node_id for reply in replies if reply.has_error()] == [3]
    assert calls(send(forked)) == {0: 5, 1: 5, 2: 5, 3: 4, 4: 5, 5: 5}


def test_a_bunch_whose_process_is_killed_is_done_again(forked: LocalGrid, tmp_path: Path) -> None:
    quick(forked)
    replies = send(forked, do="crash once", client=2, marker=str(tmp_path / "crashed"))
    assert calls(replies) == dict.fromkeys(range(CLIENTS), 4)


def test_slow_clients_are_not_put_into_bunches(forked: LocalGrid) -> None:
    quick(forked)
    send(forked, do="nap")
    assert forked._bunch(CLIENTS) == 1


def test_messages_larger_than_the_pipe_do_not_lock_up() -> None:
    """The next bunch is sent while the process would send an answer: each would wait for the other to read."""
    grid = LocalGrid(odd_clients.make_app, CLIENTS, workers=1, processes=True)
    for times in (1, 2, 3):
        replies = send(grid, timeout=60, do="keep much")
        assert calls(replies) == dict.fromkeys(range(CLIENTS), times)
    grid.close()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_where_no_process_can_be_had_the_round_ends_with_the_reason(
    forked: LocalGrid, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_more(*_: object) -> None:
        raise BlockingIOError("no more processes")

    monkeypatch.setattr("fedsim.engines.feeder.Child", no_more)
    for client in (2, 3, 4):  # one of the two processes after the other, and then there is none
        with pytest.raises(BlockingIOError, match="no more processes"):
            send(forked, do="crash", client=client)
