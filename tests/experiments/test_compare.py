"""``fedsim compare`` as a user meets it: runs, failures, going on, and mistakes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from experiments import cli
from experiments.compare.grid import grid, jobs
from fedsim.errors import FedsimError

CONFIG = """
name = "small"
seed = 5
[data]
name = "fashion_mnist_small"
train_size = 60
test_size = 50
clients = 3
[model]
name = "lenet"
[training]
rounds = 2
batch_size = 5
"""


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "small.toml").write_text(CONFIG)
    monkeypatch.chdir(tmp_path)
    return "small.toml"


def call(arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    monkeypatch.setattr("sys.argv", ["fedsim", "compare", *arguments])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    captured = capsys.readouterr()
    return int(stop.value.code or 0), " ".join((captured.out + captured.err).split())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--vary", "training.ronds=3,4"], ["training.ronds", "Did you mean 'rounds'?"]),
        (["--vary", "training.rounds=3,many"], ["With training.rounds=many", "integer"]),
        (["--vary", "selection.name=uniform,unifrom"], ["With selection.name=unifrom", "'uniform'"]),
        (["--vary", "selection.nmae=uniform"], ["nmae"]),
        (["--vary", "training.rounds"], ["--vary = 'training.rounds'", "KEY=A,B,C"]),
        (["--vary", "training.rounds=1,"], ["--vary = 'training.rounds=1,'", "KEY=A,B,C"]),
        (["--vary", "training.rounds=1,1"], ["twice", "once"]),
        (["--vary", "training.rounds=1", "--vary", "training.rounds=2"], ["varied twice", "a,b,c"]),
        (["--vary", "seed=1,2"], ["Use --seeds N"]),
        (["--seeds", "0"], ["--seeds = 0", "1 or more"]),
        (["--workers", "0"], ["--workers = 0", "1 or more"]),
        (["--target", "80"], ["--target = 80", "0.8"]),
        (["--resume"], ["--resume needs --out"]),
    ],
)
def test_mistakes_are_named_before_anything_runs(
    config: str,
    arguments: list[str],
    words: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, text = call([config, "--quiet", *arguments], monkeypatch, capsys)
    assert code == 2
    assert text.startswith("Error")
    for word in words:
        assert word in text
    assert not Path("runs").exists()


def test_commas_inside_brackets_and_quotes_belong_to_a_value(config: str) -> None:
    varied = 'data.partition={ name = "dirichlet", alpha = 0.5, min_size = 1 },{ name = "iid" }'
    cells = grid(Path(config), [varied, "training.learning_rate=0.1,0.2,0.3"], 2)
    assert len(cells) == 6
    assert cells[0].experiments[0].config.data.partition.parameters == {"alpha": 0.5, "min_size": 1}
    assert [one.config.seed for one in cells[0].experiments] == [5, 6]
    assert cells[5].label == 'partition={ name = "iid" }, learning_rate=0.3'
    runs = jobs(cells, Path("out"))
    assert len({run.folder for run in runs}) == 12
    assert [run.seed for run in runs] == [5] * 6 + [6] * 6


def stamps(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes())
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_failures_stop_nobody_and_resuming_does_no_finished_run_again(
    config: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    arguments = [config, "--quiet", "--vary", "faults.crash=1.0,0.0", "--out", str(out), "--workers", "2"]
    code, text = call([*arguments, "--seeds", "1"], monkeypatch, capsys)
    assert code == 1
    assert "Failed: 1.0, seed 5, after round 0:" in text
    content = json.loads((out / "compare.json").read_text())
    assert [len(one["runs"]) for one in content["summaries"]] == [1, 1]
    assert [one["final"]["count"] for one in content["summaries"]] == [0, 1]
    done = out / "runs" / "faults.crash=0.0" / "seed-5"
    before = stamps(done)
    assert "model.safetensors" in before

    code, text = call([*arguments, "--seeds", "1"], monkeypatch, capsys)
    assert (code, "--resume" in text) == (2, True)
    changed = [*arguments, "--seeds", "1", "--resume", "--set", "training.learning_rate=0.01"]
    code, text = call(changed, monkeypatch, capsys)
    assert (code, "another [training]" in text) == (2, True)

    code, text = call([*arguments, "--seeds", "1", "--resume", "--target", "0.05"], monkeypatch, capsys)
    assert code == 1
    assert stamps(done) == before
    content = json.loads((out / "compare.json").read_text())
    assert [one["final"]["count"] for one in content["summaries"]] == [0, 1]
    assert content["target"] == 0.05
    assert [one["rounds"]["count"] for one in content["summaries"]] == [1, 1]
    page = (out / "compare.html").read_text()
    assert content["answer"][0] in page
    assert "1.0, seed 5" in page


@pytest.mark.slow
def test_killed_in_the_middle_and_gone_on_with(config: str, tmp_path: Path) -> None:
    """SIGKILL to the comparison alone: its runs end with it, and what they had done is not done again."""
    base = [sys.executable, "-m", "experiments.cli", "compare", config, "--quiet", "--seeds", "2", "--workers", "1"]
    base += ["--vary", "training.learning_rate=0.1,0.05", "--set", "training.rounds=40"]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    subprocess.run([*base, "--out", str(whole)], check=True, stdout=subprocess.DEVNULL)
    process = subprocess.Popen([*base, "--out", str(cut)], stdout=subprocess.DEVNULL)
    first = cut / "runs" / "training.learning_rate=0.1" / "seed-5"
    second = cut / "runs" / "training.learning_rate=0.05" / "seed-5"
    deadline = time.monotonic() + 300
    while not list(second.glob("checkpoint/round-*")) and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    time.sleep(2)
    rounds = (second / "metrics.jsonl").read_bytes()
    time.sleep(1)
    assert (second / "metrics.jsonl").read_bytes() == rounds  # nobody writes on
    assert not (second / "model.safetensors").exists()
    before = stamps(first)
    subprocess.run([*base, "--out", str(cut), "--resume", "--seeds", "3"], check=True, stdout=subprocess.DEVNULL)
    assert stamps(first) == before
    # The rounds before the last checkpoint keep their measured seconds: they were not computed again.
    kept = rounds.split(b"\n")[:-2]
    assert (second / "metrics.jsonl").read_bytes().split(b"\n")[: len(kept)] == kept
    assert len(list(cut.glob("runs/*/seed-*/model.safetensors"))) == 6
    for run in sorted((whole / "runs").glob("*/seed-*/")):
        again = cut / run.relative_to(whole)
        assert (again / "model.safetensors").read_bytes() == (run / "model.safetensors").read_bytes()


def test_a_grid_that_cannot_be_pathed_is_told_apart(config: str) -> None:
    first, second = grid(Path(config), ["name='a/b','a?b'"], 1)
    assert first.folder != second.folder
    assert "/" not in first.folder


def test_the_first_cell_needs_a_file(tmp_path: Path) -> None:
    with pytest.raises(FedsimError, match="no such file"):
        grid(tmp_path / "nowhere.toml", ["training.rounds=1,2"], 1)
