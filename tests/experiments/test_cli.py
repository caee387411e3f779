"""The command line as a new user meets it: one clear message and exit code 2 for every mistake."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments import cli

CONFIG = """
name = "small"
[data]
name = "fashion_mnist_small"
train_size = 120
test_size = 50
clients = 4
[model]
name = "lenet"
[training]
algorithm = "fedsgd"
rounds = 2
batch_size = 2
[[attacks]]
name = "dlg"
iterations = 20
restarts = 1
clients = 1
lpips = false
"""


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "small.toml").write_text(CONFIG)
    monkeypatch.chdir(tmp_path)
    return "small.toml"


def call(arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    monkeypatch.setattr("sys.argv", ["fedsim", *arguments])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    captured = capsys.readouterr()
    return int(stop.value.code or 0), " ".join((captured.out + captured.err).split())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (["training.ronds=3"], ["training.ronds", "Did you mean 'rounds'?"]),
        (["training.rounds=many"], ["training.rounds = 'many'", "integer"]),
        (["data.name=fashion_mnst"], ["fashion_mnst", "fashion_mnist"]),
        (["data.clients=500"], ["500", "120"]),
        (["training.batch_size=99"], ["training.batch_size = 99", "30 examples", "at most 30"]),
        (["attacks.0.labels=given"], ["'dlg' cannot work here", "labels", "withholds"]),
        (["attacks.0.iteratons=5"], ["iteratons", "'iterations'"]),
        (["attacks.0.name=idlg"], ["'idlg' cannot work here", "at most 1 example"]),
        (["training.algorithm=fedavg"], ["'dlg' cannot work here", "one local step"]),
        (["attacks.0.rounds=[7]"], ["rounds = 7", "1 to 2"]),
        (["attacks.0.clients=[9]"], ["clients = 9", "0 to 3"]),
        (["selection.name=unifrom"], ["unifrom", "'uniform'"]),
        (["engine.name=locall"], ["locall", "'local'"]),
        (["model.name=nowhere:net"], ["nowhere:net", "PYTHONPATH"]),
    ],
)
def test_mistakes_end_with_one_message_and_exit_code_2(
    config: str,
    changes: list[str],
    words: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = ["run", config, "--quiet", *(part for change in changes for part in ("--set", change))]
    code, text = call(arguments, monkeypatch, capsys)
    assert code == 2
    assert text.startswith("Error")
    assert "Traceback" not in text
    for word in words:
        assert word in text
    assert not Path("runs").exists()


def test_a_data_set_that_is_not_there(
    config: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FEDSIM_DATA", str(tmp_path / "empty"))
    code, text = call(["run", config, "--set", "data.name=cifar10"], monkeypatch, capsys)
    assert code == 2
    assert "fedsim data fetch cifar10" in text


def test_output_folders_that_cannot_be_used(
    config: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("not a folder")
    code, text = call(["run", config, "--out", "file/run"], monkeypatch, capsys)
    assert code == 2
    assert "file/run" in text
    code, text = call(["run", config, "--out", "/proc/run"], monkeypatch, capsys)
    assert code == 2
    assert "/proc/run" in text
    code, text = call(["run", config, "--out", "done", "--quiet"], monkeypatch, capsys)
    assert code == 0
    assert "Report:" in text
    before = (tmp_path / "done" / "metrics.jsonl").read_bytes()
    code, text = call(["run", config, "--out", "done"], monkeypatch, capsys)
    assert code == 2
    assert "holds a run already" in text
    assert (tmp_path / "done" / "metrics.jsonl").read_bytes() == before


def test_attacking_what_was_not_recorded(
    config: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, text = call(["attack", "nowhere", "--with", "dlg"], monkeypatch, capsys)
    assert (code, "does not exist" in text) == (2, True)
    call(["run", config, "--out", "done", "--quiet"], monkeypatch, capsys)
    code, text = call(["attack", "done", "--with", "idlg"], monkeypatch, capsys)
    assert (code, "record = true" in text) == (2, True)
    code, text = call(["attack", "done", "--with", "dlg"], monkeypatch, capsys)
    assert (code, "already" in text) == (2, True)


def test_everything_there_is_is_listed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    code, text = call(["list"], monkeypatch, capsys)
    assert code == 0
    for word in ("inverting_gradients", "uniform", "fedadam", "resnet20", "cifar100", "dirichlet", "local"):
        assert word in text
    assert call(["list", "atacks"], monkeypatch, capsys)[0] == 2


def test_data_is_shown_and_dealt_out(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    code, text = call(["data", "show", "fashion_mnist_small", "--clients", "4"], monkeypatch, capsys)
    assert code == 0
    assert "Ankle boot" in text
    assert "1000" in text or "1,000" in text


def test_layers_that_hide_their_input_are_named_before_a_run(
    config: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, text = call(["ranks", config, "--set", "model.name=mlp"], monkeypatch, capsys)
    assert (code, "gives the example away" in text) == (0, True)
    code, text = call(["ranks", config, "--set", "model.name=cnn", "--set", "model.width=2"], monkeypatch, capsys)
    assert (code, "Safe from R-GAP" in text, "because of 0, 1, 2, 3, 4, 5." in text) == (0, True, True)
    code, text = call(["ranks", config, "--set", "model.name=resnet20"], monkeypatch, capsys)
    assert (code, "needs a chain" in text) == (2, True)
