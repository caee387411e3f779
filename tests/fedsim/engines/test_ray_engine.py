"""The Ray engine gives the bytes of the local one: over any number of actors, and when actors die."""

from __future__ import annotations

import os
import pickle
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import odd_clients
import pytest
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid

from experiments.experiment import Experiment
from fedsim.arrays import from_record, to_record
from fedsim.engines import LocalGrid, RayGrid
from fedsim.engines.simulated import lighten
from fedsim.errors import FedsimError
from server import Round, federate

try:
    import ray
except ImportError:
    ray = None

pytestmark = pytest.mark.slow  # Ray takes longer to start than all other tests of an engine

CLIENTS = 6


def experiment(engine: dict[str, Any] | None = None, **training: Any) -> Experiment:
    return Experiment.of(
        {
            "data": {"name": "fashion_mnist_small", "clients": 20, "train_size": 1990},  # shards of two sizes
            "model": {"name": "lenet"},
            "training": {"rounds": 3, "batch_size": 8, "local_steps": 3} | training,
            "selection": {"clients_per_round": 8},
            "engine": engine or {},
        }
    )


def rounds(one: Experiment, grid: Grid, **options: Any) -> list[Round]:
    start = to_record(one.model().state_dict())
    plan = one.plan.to_config()
    return list(federate(one.strategy(), grid, start, rounds=one.config.training.rounds, train_config=plan, **options))


def final(one: Experiment, grid: Grid) -> dict[str, bytes]:
    return {name: tensor.numpy().tobytes() for name, tensor in from_record(rounds(one, grid)[-1].arrays).items()}


def local(one: Experiment, workers: int) -> dict[str, bytes]:
    grid = LocalGrid(one.client_app, one.config.data.clients, workers)
    try:
        return final(one, grid)
    finally:
        grid.close()


@pytest.fixture(scope="module")
def two_actors() -> Iterator[RayGrid]:
    """The first grid starts Ray, and takes it down with itself."""
    if ray is None:
        reason = "NOT TESTED: the engine 'ray', as Ray is not installed. Run: pip install fedsim[ray]"
        if os.environ.get("CI"):
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)
    grid = experiment({"name": "ray", "workers": 2}).grid()
    assert isinstance(grid, RayGrid)
    yield grid
    grid.close()
    assert not ray.is_initialized()


@pytest.fixture(scope="module")
def one_actor(two_actors: RayGrid) -> Iterator[Grid]:
    grid = experiment({"name": "ray", "workers": 1, "cpus": 0}).grid()
    yield grid
    grid.close()  # type: ignore[attr-defined]
    assert ray.is_initialized()  # it was not this grid that started Ray


@pytest.fixture(scope="module")
def odd(two_actors: RayGrid) -> Iterator[RayGrid]:
    grid = RayGrid(odd_clients.make_app, CLIENTS, workers=2, cpus=0)
    yield grid
    grid.close()


def send(
    grid: Grid, clients: Sequence[int] = range(CLIENTS), timeout: float | None = None, **order: Any
) -> list[Message]:
    arrays = ArrayRecord([np.arange(6, dtype=np.float32).reshape(2, 3)])
    content = RecordDict({"arrays": arrays, "config": ConfigRecord(order)})
    messages = [Message(content, client, "train") for client in clients]
    return list(grid.send_and_receive(messages, timeout=timeout))


def complete(grid: RayGrid) -> list[int]:
    """The actors' process ids, when all replacements have started."""
    deadline = time.monotonic() + 60
    while None in grid.pids:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return [pid for pid in grid.pids if pid is not None]


def calls(replies: Sequence[Message]) -> dict[int, int]:
    return {reply.metadata.src_node_id: int(reply.content.metric_records["metrics"]["calls"]) for reply in replies}  # type: ignore[arg-type]


@pytest.mark.parametrize("training", [{}, {"algorithm": "fedsgd", "learning_rate": 0.5}], ids=["fedavg", "fedsgd"])
def test_the_bytes_are_those_of_local_whatever_the_workers(
    training: dict[str, Any], one_actor: Grid, two_actors: Grid
) -> None:
    one = experiment(**training)
    expected = local(one, workers=1)
    assert expected == local(one, workers=2) == final(one, one_actor) == final(one, two_actors)
    assert expected["fc.bias"] != one.model().state_dict()["fc.bias"].numpy().tobytes()


def test_a_killed_actor_changes_no_byte(two_actors: RayGrid, monkeypatch: pytest.MonkeyPatch) -> None:
    one = experiment(local_steps=40, batch_size=32, rounds=1)
    expected = local(one, workers=1)
    before, victims = complete(two_actors), []

    def send_and_kill(messages: Sequence[Message], *, timeout: float | None = None) -> list[Message]:
        finished = threading.Event()

        def kill() -> None:
            time.sleep(0.15)
            if not finished.is_set() and not victims:
                victims.append(before[0])
                os.kill(victims[0], signal.SIGKILL)

        killer = threading.Thread(target=kill)
        killer.start()
        replies = list(RayGrid.send_and_receive(two_actors, messages, timeout=timeout))
        finished.set()
        killer.join()
        return replies

    monkeypatch.setattr(two_actors, "send_and_receive", send_and_kill)
    assert final(one, two_actors) == expected
    assert victims == before[:1]
    assert set(two_actors.pids) & set(before) == {before[1]}


def test_arrays_go_into_the_object_store_once_a_round(two_actors: Grid, monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients also evaluate each new model: it is the one they are sent in the next round."""
    one = experiment(client_evaluation=True)
    put, sizes = ray.put, []

    def counting(value: Any) -> Any:
        sizes.append(len(pickle.dumps(value)))
        return put(value)

    monkeypatch.setattr(ray, "put", counting)
    done = rounds(one, two_actors)
    assert all(0 <= round.client_evaluation["eval-accuracy"] <= 1 for round in done[1:])
    assert len(sizes) == 1 + len(done[1:])
    arrays = sum(array.numpy().nbytes for array in done[-1].arrays.values())
    assert all(size >= arrays for size in sizes)


def test_messages_travel_without_their_arrays() -> None:
    arrays = ArrayRecord([np.zeros(100_000, dtype=np.float32)])
    content = RecordDict({"config": ConfigRecord({"lr": 0.1}), "arrays": arrays, "more": ArrayRecord()})
    message = LocalGrid(odd_clients.make_app(), 1).create_message(content, "train", 0, "3")
    light, keys, taken = lighten(message)
    assert len(pickle.dumps(light)) < 5_000 < 400_000 < len(pickle.dumps(message))
    assert keys == ["config", "arrays", "more"]
    assert taken["arrays"] is arrays
    assert message.content is content
    assert list(content) == keys
    assert (light.metadata.dst_node_id, light.metadata.group_id, list(light.content)) == (0, "3", ["config"])


def test_data_stay_where_they_are() -> None:
    """What actors are sent to make their app from is the configuration, even after the data were loaded."""
    one = experiment()
    images = one.shard(3).images
    sent = pickle.dumps(one.client_app)
    assert len(sent) < 5_000
    again = pickle.loads(sent).__self__
    assert again.config == one.config
    assert again.shard(3).images.equal(images)


def test_clients_states_survive_on_whatever_actor_they_come_to(odd: RayGrid, tmp_path: Path) -> None:
    """Each call counts once: a client whose actor died is done again from the state before."""
    start = calls(send(odd))
    before = complete(odd)
    replies = send(odd, do="crash once", client=2, marker=str(tmp_path / "crashed"))
    assert calls(replies) == {client: count + 1 for client, count in start.items()}
    assert len(set(complete(odd)) - set(before)) == 1
    for reply in replies:
        sent = np.arange(6, dtype=np.float32).reshape(2, 3)
        [got] = reply.content.array_records["arrays"].to_numpy_ndarrays()
        assert np.array_equal(got, sent + reply.metadata.src_node_id)
    third = send(odd, clients=[5, 4, 2])
    assert calls(third) == {client: start[client] + 2 for client in (5, 4, 2)}
    assert [reply.metadata.src_node_id for reply in third] == [5, 4, 2]
    assert len({r.content.metric_records["metrics"]["pid"] for r in [*replies, *third]}) >= 2


@pytest.mark.parametrize(
    ("do", "reason"),
    [("raise", "ValueError: I will not"), ("raise for users", "batch_size = 9: too large. Use less.")],
)
def test_a_client_that_raises_is_an_error_as_in_local(odd: RayGrid, do: str, reason: str) -> None:
    """And what it wrote into its state before it raised is forgotten, in both engines."""
    engine = LocalGrid(odd_clients.make_app, CLIENTS)
    for grid in (odd, engine):
        before = calls(send(grid, clients=[5]))
        *others, last = send(grid, clients=[0, 4, 5], do=do, client=5)
        assert all(reply.has_content() for reply in others)
        assert (last.metadata.src_node_id, last.error.code, last.error.reason) == (
            5, ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason,
        )  # fmt: skip
        assert calls(send(grid, clients=[5])) == {5: before[5] + 1}
    engine.close()


def test_who_hangs_is_left_behind_and_its_actor_replaced(odd: RayGrid) -> None:
    complete(odd)
    before = calls(send(odd))
    started = time.monotonic()
    replies = send(odd, timeout=2, do="sleep", client=0)
    assert [reply.metadata.src_node_id for reply in replies] == [1, 2, 3, 4, 5]
    after = calls(send(odd))
    assert time.monotonic() - started < 45
    assert after == {client: count + (1 if client == 0 else 2) for client, count in before.items()}


def test_who_kills_every_actor_is_given_up(odd: RayGrid, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedsim.engines.ray.ATTEMPTS", 1)
    replies = send(odd, clients=[0, 1, 3], do="crash", client=1)
    assert [reply.has_error() for reply in replies] == [False, True, False]
    assert "died with this client in it" in replies[1].error.reason


def test_an_actor_that_cannot_make_the_app_says_why(two_actors: RayGrid) -> None:
    with pytest.raises(FedsimError, match=r"node: data 'secret': it is not on this node\. Fetch it there\."):
        RayGrid(odd_clients.make_nothing, CLIENTS, cpus=0)
    assert ray.is_initialized()


def test_more_actors_than_there_is_room_for_are_refused(two_actors: RayGrid) -> None:
    with pytest.raises(FedsimError, match=r"engine\.workers = 50: .* reserve 50 cores, and Ray has 2.*engine\.cpus"):
        RayGrid(odd_clients.make_app, CLIENTS, workers=50)
    assert ray.is_initialized()


def test_a_cluster_that_is_not_there_is_an_error_at_once(two_actors: RayGrid) -> None:
    with pytest.raises(FedsimError, match=r"engine\.address = '127\.0\.0\.1:1': there is no Ray cluster.*ray start"):
        RayGrid(odd_clients.make_app, CLIENTS, address="127.0.0.1:1")


def test_an_app_instead_of_what_makes_it_is_refused() -> None:
    with pytest.raises(FedsimError, match="a function that makes the ClientApp"):
        RayGrid(odd_clients.make_app(), CLIENTS)  # type: ignore[arg-type]


def test_without_ray_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(FedsimError, match=r"pip install fedsim\[ray\]"):
        experiment({"name": "ray"}).grid()
