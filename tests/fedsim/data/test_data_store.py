"""The store on disk and loading by name."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from fedsim.data import DATA, DataSet, Images, load, overview, show
from fedsim.data.make_slice import slice_bytes
from fedsim.data.sources import SLICE
from fedsim.data.store import Origin, encode, open_stored, write
from fedsim.errors import FedsimError

ORIGIN = Origin("drawn", "CC0")


def drawn(count: int, seed: int = 0) -> Images:
    draw = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (count, 1, 6, 6), dtype=torch.uint8, generator=draw)
    return Images(pixels, torch.arange(count) % 3, ("x", "y", "z"))


@pytest.fixture
def filled(tmp_path: Path) -> Path:
    write("mine", drawn(30), drawn(9, seed=1), ORIGIN, tmp_path)
    return tmp_path


def test_what_is_written_is_read(filled: Path) -> None:
    data = open_stored("mine", filled)
    assert data.train.images.equal(drawn(30).images)
    assert data.test.labels.equal(drawn(9).labels)
    assert data.train.classes == ("x", "y", "z")
    assert (data.input_shape, data.classes) == ((1, 6, 6), 3)
    assert not list(filled.rglob("*.partial"))


def test_an_imported_name_loads_and_sizes_are_the_first_examples(filled: Path) -> None:
    data = load("mine", root=filled, train_size=5, test_size=9)
    assert data.train.images.equal(drawn(30).images[:5])
    assert data.mean == load("mine", root=filled).mean  # of the whole split, whatever the size
    plain = load("mine", root=filled, normalise=False)
    assert (plain.mean, plain.std) == ((0.0,), (1.0,))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"name": "mnits"}, "Did you mean 'mnist'"),
        ({"name": "mnist"}, "mnist/train.safetensors. Run: fedsim data fetch mnist"),
        ({"name": "mine", "train_size": 31}, "train_size = 31: must be from 1 to 30"),
        ({"name": "mine", "test_size": 0}, "test_size = 0"),
        ({"name": "mine", "colour": True}, "no such parameter"),
        ({"name": "fashion_mnist_small", "colour": True}, "no such parameter"),
        ({"name": "../mine"}, "not known"),
        ({"name": "no_such_module:data"}, "cannot import"),
    ],
)
def test_a_wrong_request_is_told_what_to_do(filled: Path, arguments: dict[str, object], words: str) -> None:
    with pytest.raises(FedsimError) as caught:
        load(root=filled, **arguments)  # type: ignore[arg-type]
    assert words in str(caught.value)


def test_half_a_data_set_says_which_half(filled: Path) -> None:
    (filled / "mine" / "test.safetensors").unlink()
    with pytest.raises(FedsimError, match=r"no .*mine/test\.safetensors"):
        load("mine", root=filled)


def test_a_truncated_file_is_named(filled: Path) -> None:
    path = filled / "mine" / "train.safetensors"
    whole = path.read_bytes()
    for length in (0, 7, 60, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(FedsimError, match=r"train\.safetensors cannot be read"):
            load("mine", root=filled)


@pytest.mark.parametrize(
    ("tensors", "classes", "word"),
    [
        ({"images": drawn(3).images}, '["x"]', "labels"),
        ({"images": drawn(3).images.float(), "labels": torch.zeros(3, dtype=torch.int64)}, '["x"]', "images: dtype"),
        ({"images": drawn(3).images, "labels": torch.zeros(2, dtype=torch.int64)}, '["x"]', "3 images"),
        ({"images": drawn(3).images, "labels": drawn(3).labels}, '["x"]', "not a class"),
        ({"images": drawn(3).images, "labels": drawn(3).labels}, "x, y", "classes"),
    ],
)
def test_a_file_of_another_kind_is_named(
    filled: Path, tensors: dict[str, torch.Tensor], classes: str, word: str
) -> None:
    save_file(tensors, filled / "mine" / "train.safetensors", {"classes": classes})
    with pytest.raises(FedsimError) as caught:
        load("mine", root=filled)
    assert "train.safetensors" in str(caught.value)
    assert word in str(caught.value)


def test_equal_contents_give_equal_bytes_that_safetensors_reads(tmp_path: Path) -> None:
    assert len({encode(drawn(30), ORIGIN) for _ in range(8)}) == 1
    folder = write("mine", drawn(3), drawn(3), ORIGIN, tmp_path)
    header = (folder / "train.safetensors").read_bytes()
    assert json.loads(header[8 : 8 + int.from_bytes(header[:8], "little")])["__metadata__"]["licence"] == "CC0"


def test_statistics_follow_the_file_not_the_note_beside_it(filled: Path) -> None:
    before = load("mine", root=filled)
    assert load("mine", root=filled).mean == before.mean
    bright = Images(drawn(30).images // 2 + 128, drawn(30).labels, ("x", "y", "z"))
    write("mine", bright, drawn(9), ORIGIN, filled)
    assert load("mine", root=filled).mean[0] > before.mean[0] + 0.2
    (filled / "mine" / "statistics.json").write_text("{")
    assert load("mine", root=filled).mean[0] > before.mean[0] + 0.2


def test_the_root_comes_from_the_environment(filled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDSIM_DATA", str(filled))
    assert len(load("mine").train) == 30
    assert "mine                    in the store" in overview()
    assert "fashion_mnist_small     inside the package" in overview()


def test_an_unwritable_store_is_an_error_of_the_user(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FedsimError, match="Set FEDSIM_DATA"):
        write("mine", drawn(3), drawn(3), ORIGIN, tmp_path / "file")


def test_the_slice_is_balanced_and_needs_no_store(tmp_path: Path) -> None:
    data = load("fashion_mnist_small", root=tmp_path)
    assert data.train.label_counts() == (400,) * 10
    assert data.test.label_counts() == (100,) * 10
    assert data.input_shape == (1, 28, 28)
    assert "MIT" in show("fashion_mnist_small")
    assert "MIT License" in (SLICE / "LICENSE.txt").read_text()


def test_the_slice_is_what_the_script_makes(stored: Callable[[str], DataSet]) -> None:
    stored("fashion_mnist")
    for split in ("train", "test"):
        assert slice_bytes(split) == (SLICE / f"{split}.safetensors").read_bytes()


def test_the_full_sets_are_the_published_ones(stored: Callable[[str], DataSet]) -> None:
    """Sizes, balance and the per-channel means everybody uses (0.4914, 0.4822, 0.4465 for CIFAR-10)."""
    cifar = stored("cifar10")
    assert (len(cifar.train), len(cifar.test), cifar.input_shape) == (50_000, 10_000, (3, 32, 32))
    assert cifar.train.label_counts() == (5_000,) * 10
    assert cifar.mean == pytest.approx((0.4914, 0.4822, 0.4465), abs=1e-4)
    assert cifar.std == pytest.approx((0.2470, 0.2435, 0.2616), abs=1e-4)
    fashion = stored("fashion_mnist")
    assert fashion.mean + fashion.std == pytest.approx((0.2860, 0.3530), abs=1e-4)


def test_opening_a_large_set_reads_next_to_nothing_into_memory(stored: Callable[[str], DataSet]) -> None:
    """A process that opens the 185 MB of CIFAR-10 grows by less than 16 MB."""
    stored("cifar10")  # leaves the statistics beside the file, so that the process below need not compute them
    code = """
import re
from fedsim.data import load
def kilobytes():
    return sum(int(v) for v in re.findall(r"Rss(?:Anon|File):\\s+(\\d+)", open("/proc/self/status").read()))
load("fashion_mnist_small")
before = kilobytes()
data = load("cifar10")
opened = kilobytes() - before
print(opened)
"""
    if not Path("/proc/self/status").exists():
        pytest.skip("NOT TESTED: memory is read from /proc, which only Linux has")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 16_000


def test_names_have_one_line_that_says_what_they_are() -> None:
    for name in ("fashion_mnist", "mnist", "cifar10", "cifar100", "fashion_mnist_small"):
        assert name in DATA.names()
        assert len(DATA.summary(name)) > 40
