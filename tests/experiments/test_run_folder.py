"""The run folder: what is written can be read, kills and strangers notwithstanding."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from experiments.run_folder import LOCK, RunFolder, append, read
from fedsim.errors import FedsimError


def test_records_come_back_with_numbers_that_json_knows(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "a" / "run")
    folder.append_attack(
        {"loss": float("nan"), "psnr": np.float32(1.5), "labels": torch.tensor([1, 2]), "each": (float("inf"), 2.0)},
        {"name": "Größe\n\u2028", "grants": frozenset({"labels", "batch_order"}), "path": Path("x")},
    )
    assert folder.read_attacks() == [
        {"loss": None, "psnr": 1.5, "labels": [1, 2], "each": [None, 2.0]},
        {"name": "Größe\n\u2028", "grants": ["batch_order", "labels"], "path": "x"},
    ]
    assert folder.read_metrics() == folder.read_clients() == []


def test_the_configuration_comes_back_without_what_is_not_set(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run")
    assert folder.read_experiment() == {}
    folder.write_experiment(
        {"name": "x", "data": {"size": None, "path": Path("p")}, "attacks": [{"name": "dlg", "label": None}]}
    )
    assert folder.read_experiment() == {"name": "x", "data": {"path": "p"}, "attacks": [{"name": "dlg"}]}
    folder.experiment.write_text("name = ")
    with pytest.raises(FedsimError, match="is not TOML"):
        folder.read_experiment()


@pytest.mark.parametrize("torn", [b'{"round": 3, "te', b"{", b'{"round": 3}', b'{"name": "\xc3'])
def test_a_line_that_a_kill_cut_short_harms_no_other(tmp_path: Path, torn: bytes) -> None:
    path = tmp_path / "metrics.jsonl"
    append(path, [{"round": 1}, {"round": 2}])
    with path.open("ab") as file:
        file.write(torn)
    whole = [{"round": 3}] if torn.endswith(b"}") else []
    assert read(path) == [{"round": 1}, {"round": 2}, *whole]
    append(path, [{"round": 4}])
    assert read(path) == [{"round": 1}, {"round": 2}, *whole, {"round": 4}]


def test_a_damaged_line_in_the_middle_is_named(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"round": 1}\nrubbish\n{"round": 2}\n')
    with pytest.raises(FedsimError, match="line 2"):
        read(path)


def test_rewinding_forgets_later_rounds_only(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run")
    for when in range(5):
        folder.append_metrics({"round": when})
        folder.append_client({"round": when, "client": 0}, {"round": when, "client": 1})
    folder.rewind(2)
    assert [record["round"] for record in folder.read_metrics()] == [0, 1, 2]
    assert len(folder.read_clients()) == 6
    assert not folder.attacks.exists()


def test_a_folder_that_holds_a_run_is_not_taken(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path)
    RunFolder.create(tmp_path)  # nothing has been written yet
    folder.append_metrics({"round": 0})
    with pytest.raises(FedsimError, match=r"holds a run already.*--out"):
        RunFolder.create(tmp_path)
    assert RunFolder.open(tmp_path).read_metrics() == [{"round": 0}]


def test_a_path_that_cannot_be_a_folder_is_explained(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(FedsimError, match="is a file"):
            RunFolder.create(path)
    with pytest.raises(FedsimError, match="does not exist"):
        RunFolder.open(tmp_path / "nowhere")
    with pytest.raises(FedsimError, match="is not a run"):
        RunFolder.open(tmp_path)


def test_a_path_that_cannot_be_written_is_explained(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        place = Path("/proc/fedsim")  # root may write anywhere else
    else:
        place = tmp_path / "locked" / "run"
        place.parent.mkdir(mode=0o500)
    with pytest.raises(FedsimError, match="cannot be"):
        RunFolder.create(place)


def test_names_of_pictures_stay_in_their_folder(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run")
    name = folder.save_picture("../../my attack/round 1", b"png")
    assert (folder.pictures / name).read_bytes() == b"png"
    assert [path.name for path in folder.pictures.iterdir()] == [name]


def test_two_processes_do_not_run_in_one_folder(tmp_path: Path) -> None:
    """The lock goes with its process: who holds it may be killed."""
    folder = RunFolder.create(tmp_path / "run")
    code = f"from experiments.run_folder import RunFolder as R; f = R.create({str(folder.path)!r}); f.hold(); input()"
    other = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE)
    try:
        for _ in range(600):
            if (folder.path / LOCK).exists() and not _free(folder):
                break
            time.sleep(0.1)
        with pytest.raises(FedsimError, match="written by another process"):
            folder.hold()
    finally:
        other.kill()
        other.wait()
    folder.hold()


def _free(folder: RunFolder) -> bool:
    with (folder.path / LOCK).open("r+b") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
    return True
