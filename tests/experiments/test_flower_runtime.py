"""The app on Flower's own runtime: what Flower demands of it, and the same results as on fedsim's engines."""

import os
import pickle
import random
import shlex
import signal
import socket
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import tomli_w
import torch
from flwr.app import Context, Error, Message, RecordDict
from flwr.cli.build import build_fab_from_disk
from flwr.cli.config_utils import load_and_validate
from flwr.cli.install import install_from_fab
from flwr.clientapp import ClientApp
from flwr.common.config import get_fused_config_from_dir
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid, ServerApp
from flwr.supercore.object_ref import load_app
from safetensors.torch import load_file
from torch import Tensor

from experiments.experiment import Experiment
from experiments.flower import app
from experiments.flower.federation import DEFAULT, Federation, run_on_federation
from experiments.run import MODEL, run
from experiments.run_folder import RunFolder
from fedsim.engines.simulated import identify
from fedsim.errors import FedsimError

CODE = ("adversary", "clients", "experiments", "fedsim", "server", "tests")
SMALL = ["data.train_size=90", "data.test_size=30", "data.clients=3", "training.rounds=2", "attacks.0.iterations=20"]
RUN_ID = 7


class Nodes(Grid):
    """Nodes as Flower's runtime has them: ids at random, and replies in any order.

    Args:
        clients: number of nodes.
        run_config: what Flower hands to the app.
        broken: clients that crash when they are to train.
    """

    def __init__(self, clients: int, run_config: dict[str, Any], broken: Iterable[int] = ()) -> None:
        identify()
        self.dice = random.Random(5)
        ids = [self.dice.getrandbits(63) for _ in range(clients)]
        self.contexts = {
            node: Context(RUN_ID, node, {"partition-id": i, "num-partitions": clients}, RecordDict(), dict(run_config))
            for i, node in enumerate(self.dice.sample(ids, clients))
        }
        self.broken = set(broken)

    def set_run(self, run: Any) -> None: ...

    @property
    def run(self) -> Any: ...

    def create_message(self, *args: Any, **kwargs: Any) -> Message:
        raise NotImplementedError

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        raise NotImplementedError

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        raise NotImplementedError

    def get_node_ids(self) -> Iterable[int]:
        return list(self.contexts)

    def get_nodes(self) -> Any:
        raise NotImplementedError

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        replies = [self.answer(message) for message in messages]
        self.dice.shuffle(replies)
        return replies

    def answer(self, message: Message) -> Message:
        message.metadata.__dict__["_message_id"] = str(self.dice.getrandbits(63))
        context = self.contexts[message.metadata.dst_node_id]
        if message.metadata.message_type == "train" and context.node_config["partition-id"] in self.broken:
            return Message(Error(ErrorCode.CLIENT_APP_CRASHED, "out of paper"), reply_to=message)
        return app.client(message, context)


def run_config(out: Path, changes: Iterable[str] = SMALL, **values: Any) -> dict[str, Any]:
    defaults = get_fused_config_from_dir(app.ROOT, {})
    return defaults | {"set": " ".join(changes), "out": str(out), "wait": 0.2} | values


def serve(grid: Grid, config: dict[str, Any]) -> None:
    app.server(grid, Context(RUN_ID, 0, {}, RecordDict(), config))


def locally(changes: Iterable[str], out: Path) -> Any:
    return run(Experiment.load(DEFAULT, changes), out)


def assert_same_run(out: Path, changes: Iterable[str], scratch: Path) -> None:
    """The run in ``out`` ended in the arrays, and in the attacks, of one on the local engine."""
    expected = locally(changes, scratch)
    found: dict[str, Tensor] = load_file(out / MODEL)
    for name, tensor in expected.final_arrays.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=1e-6)
    start = Experiment.load(DEFAULT, changes).model().state_dict()
    assert max(float((found[name] - start[name]).abs().max()) for name in start) > 1e-3  # it has learnt something
    attacks = RunFolder.open(out).read_attacks()
    assert [(a["round"], a["client"]) for a in attacks] == [(a["round"], a["client"]) for a in expected.attacks] != []
    for record, other in zip(attacks, expected.attacks, strict=True):
        assert record["psnr"] == pytest.approx(other["psnr"], abs=0.1)
        assert (out / "pictures" / record["picture"]).is_file()
    assert (out / "report.html").is_file()


def test_flower_accepts_the_app_and_loads_its_components_without_the_repository(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Flower does: check, bundle, unpack elsewhere, import. The code has to be the installed one, with its data."""
    config, _ = load_and_validate(app.ROOT / "pyproject.toml")
    bundle = build_fab_from_disk(app.ROOT)
    with zipfile.ZipFile(BytesIO(bundle)) as archive:
        names = archive.namelist()
    assert "pyproject.toml" in names
    assert not [name for name in names if name.split("/")[0] in CODE]
    unpacked = install_from_fab(bundle, tmp_path, skip_prompt=True)
    components = config["tool"]["flwr"]["app"]["components"]
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert isinstance(load_app(components["serverapp"], ValueError, unpacked), ServerApp)
    assert isinstance(load_app(components["clientapp"], ValueError, unpacked), ClientApp)
    settings = get_fused_config_from_dir(unpacked, {"set": "training.rounds=4"})
    experiment = app.experiment_of(str(settings["experiment"]), str(settings["set"]))
    assert experiment.config.training.rounds == 4
    assert len(experiment.data.train) == 4_000


def test_a_configuration_in_the_bundle_goes_before_the_installed_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "small.toml").write_text('name = "mine"')
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    assert app.experiment_of("mine/small.toml", "").config.name == "mine"
    with pytest.raises(FedsimError, match=r"mine/smal\.toml"):
        app.experiment_of("mine/smal.toml", "")


def test_a_run_on_nodes_with_ids_of_their_own_is_the_run_on_the_local_engine(tmp_path: Path) -> None:
    config = run_config(tmp_path / "flower")
    serve(Nodes(3, config), config)
    assert_same_run(tmp_path / "flower", SMALL, tmp_path / "local")


def test_a_node_that_fails_is_booked_under_the_number_of_its_client(tmp_path: Path) -> None:
    config = run_config(tmp_path)
    serve(Nodes(3, config, broken=[1]), config)
    records = RunFolder.open(tmp_path).read_clients()
    assert [record["client"] for record in records] == [0, 1, 2] * 2
    assert {record["client"]: record["failure"] for record in records} == {0: None, 1: "out of paper", 2: None}


def test_a_run_that_was_cut_off_goes_on_with_other_nodes(tmp_path: Path) -> None:
    class Vanishing(Nodes):
        def answer(self, message: Message) -> Message:
            if message.content.config_records.get("config", {}).get("server-round") == 2:
                self.broken = {0, 1, 2}
            return super().answer(message)

    config = run_config(tmp_path / "flower")
    with pytest.raises(FedsimError, match=r"Round 2: 0 of 3 clients answered well.*client 0: out of paper"):
        serve(Vanishing(3, config), config)
    serve(Nodes(3, config), config | {"resume": True})
    assert_same_run(tmp_path / "flower", SMALL, tmp_path / "local")


def test_faults_of_the_configuration_reach_flowers_clients(tmp_path: Path) -> None:
    config = run_config(tmp_path, [*SMALL, "training.rounds=8", "training.min_share=0.1", "faults.nan=0.3"])
    serve(Nodes(3, config), config)
    failures = [record["failure"] for record in RunFolder.open(tmp_path).read_clients()]
    assert any(failure and "NaN" in failure for failure in failures)
    assert None in failures


def test_defences_of_the_configuration_reach_flowers_clients(tmp_path: Path) -> None:
    """With the error feedback that each node keeps from round to round."""
    chain = 'defences=[{name="pruning",share=0.9},{name="gaussian_noise",standard_deviation=1e-4}]'
    config = run_config(tmp_path / "flower", [*SMALL, shlex.quote(chain)])
    serve(Nodes(3, config), config)
    expected, bare = locally([*SMALL, chain], tmp_path / "local"), locally(SMALL, tmp_path / "bare")
    found = load_file(tmp_path / "flower" / MODEL)
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.final_arrays.items())
    assert not all(torch.equal(found[name], tensor) for name, tensor in bare.final_arrays.items())


def test_flowers_simulation_can_send_the_app_to_other_processes() -> None:
    app.client(*first_message(run_config(Path())))  # now it holds a model, and locks
    assert pickle.loads(pickle.dumps(app.client)) is app.client


def first_message(config: dict[str, Any]) -> tuple[Message, Context]:
    nodes = Nodes(3, config)
    node = next(iter(nodes.contexts))
    message = Message(RecordDict(), node, "query")
    message.metadata.__dict__["_message_id"] = "1"
    return message, nodes.contexts[node]


@pytest.mark.parametrize(("nodes", "words"), [(2, ["2 nodes", "data.clients = 3"]), (4, ["4 nodes", "no other"])])
def test_too_few_or_too_many_nodes_are_named(tmp_path: Path, nodes: int, words: list[str]) -> None:
    config = run_config(tmp_path / "never")
    with pytest.raises(FedsimError) as error:
        serve(Nodes(nodes, config), config)
    for word in [*words, "num-supernodes=3"]:
        assert word in str(error.value)
    assert not (tmp_path / "never").exists()


@pytest.mark.parametrize(
    ("node", "word"),
    [
        ({"partition-id": 0, "num-partitions": 5}, "num-partitions = 5"),
        ({"partition-id": 3, "num-partitions": 3}, "partition-id = 3"),
        ({"num-partitions": 3}, "partition-id = None"),
    ],
)
def test_a_node_set_up_for_another_experiment_is_refused(node: dict[str, int], word: str) -> None:
    with pytest.raises(FedsimError, match=word):
        app.check_node(node, 3)


def test_nodes_wait_for_the_last_one(tmp_path: Path) -> None:
    config = run_config(tmp_path)

    class Late(Nodes):
        def get_node_ids(self) -> Iterable[int]:
            self.looks = getattr(self, "looks", 0) + 1
            return super().get_node_ids() if self.looks > 2 else []

    began = time.monotonic()
    app.wait_for(Late(3, config), 3, seconds=30)
    assert 2 * app.POLL <= time.monotonic() - began < 10


def test_outputs_go_below_the_repository_and_every_run_has_a_folder_of_its_own(tmp_path: Path) -> None:
    assert app.folder("", 11) == app.ROOT / "runs" / "flower-11"
    assert app.folder("runs/mine", 11) == app.ROOT / "runs" / "mine"
    assert app.folder(str(tmp_path), 11) == tmp_path


@pytest.fixture
def flower_home(tmp_path: Path) -> Iterator[Path]:
    """A home for Flower; what runs with it is ended afterwards."""
    home = tmp_path / "home"
    home.mkdir()
    yield home
    for number in (signal.SIGTERM, signal.SIGKILL):
        for pid in processes_with(f"FLWR_HOME={home}"):
            os.kill(pid, number)
        wait_until(lambda: not processes_with(f"FLWR_HOME={home}"), 10)


def processes_with(setting: str) -> list[int]:
    """Live processes that were started with a setting in their environment."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if setting.encode() in (folder / "environ").read_bytes():
                found.append(int(folder.name))
        except OSError:
            continue  # it has ended, or is not ours
    return found


def wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.2)
    return True


def free_port() -> str:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return str(one.getsockname()[1])


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds the processes to end in /proc")
def test_flwr_run_in_flowers_simulation_agrees_with_the_local_engine(tmp_path: Path, flower_home: Path) -> None:
    """As a newcomer types it: nothing configured, Flower starts a SuperLink of its own."""
    pytest.importorskip("ray")
    scripts = Path(sys.executable).parent
    environment = os.environ | {
        "FLWR_HOME": str(flower_home),
        "FLWR_LOCAL_SUPERLINK_HTTP_API_PORT": free_port(),
        "FLWR_LOCAL_CONTROL_API_PORT": free_port(),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join([str(app.ROOT), os.environ.get("PYTHONPATH", "")]),
    }
    out = tmp_path / "run"
    (tmp_path / "run.toml").write_text(tomli_w.dumps({"out": str(out)}))
    command = [str(scripts / "flwr"), "run", ".", "--stream", "--run-config", str(tmp_path / "run.toml")]
    done = subprocess.run(
        command, cwd=app.ROOT, env=environment, capture_output=True, text=True, check=False, timeout=540
    )
    assert (out / "report.html").is_file(), done.stdout + done.stderr
    assert_same_run(out, [], tmp_path / "local")


@pytest.mark.slow
def test_a_real_federation_agrees_with_the_local_engine_and_leaves_no_process(tmp_path: Path) -> None:
    changes = ["data.clients=3", "training.rounds=2"]
    out = tmp_path / "run"
    assert run_on_federation(DEFAULT, changes, out) == out / "report.html"
    assert_same_run(out, changes, tmp_path / "local")
    assert len({record["client"] for record in RunFolder.open(out).read_clients()}) == 3
    assert wait_until(lambda: not processes_with("fedsim-federation-"), 10)


@pytest.mark.slow
def test_a_federation_that_is_cut_off_takes_its_processes_with_it(tmp_path: Path) -> None:
    with Federation(2, tmp_path) as federation:
        host, port = federation.address.split(":")
        registered = lambda: "Activated" in (tmp_path / "superlink.log").read_text()
        assert wait_until(registered, 60)
        socket.create_connection((host, int(port)), timeout=5).close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((host, int(port)), timeout=5)
    assert not processes_with("fedsim-federation-")

    def broken(*_: object) -> None:
        raise FedsimError("no more memory")

    federation = Federation(2, tmp_path)
    federation._wait_for_superlink = broken  # type: ignore[method-assign]
    with pytest.raises(FedsimError, match="no more memory"):
        federation.__enter__()
    assert not processes_with("fedsim-federation-")
    script = [sys.executable, "-m", "experiments.flower.federation", "--out", str(tmp_path / "run")]
    process = subprocess.Popen(script, cwd=app.ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    assert wait_until((tmp_path / "run" / "flower" / "supernode-1.log").is_file, 120)
    process.terminate()
    assert process.wait(60) == 128 + signal.SIGTERM
    assert not processes_with("fedsim-federation-")
