"""Data from elsewhere: torchvision's downloads, image folders, .npz files, the user's own data sets."""

from __future__ import annotations

import gzip
import hashlib
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torch.utils.data import TensorDataset

from fedsim.data import Images, downloads, fetch, import_folder, import_npz, load
from fedsim.errors import FedsimError

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (40, 5, 6), dtype=np.uint8)
COLOUR = RNG.integers(0, 256, (40, 5, 6, 3), dtype=np.uint8)
LABELS = np.arange(40) % 4


def test_mnist_files_are_converted(tmp_path: Path) -> None:
    """Gzipped idx files made by hand, read by torchvision: ours hold the same pictures and labels."""
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for stem in ("train", "t10k"):
        for kind, array in (("images-idx3", GREY), ("labels-idx1", LABELS.astype(np.uint8))):
            head = bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
            packed = gzip.compress(head + array.tobytes())
            (raw / f"{stem}-{kind}-ubyte.gz").write_bytes(packed)
            (raw / f"{stem}-{kind}-ubyte").write_bytes(gzip.decompress(packed))
    images = downloads.from_torchvision(torchvision.datasets.FashionMNIST(str(tmp_path), train=True))
    assert images.images.equal(torch.from_numpy(GREY)[:, None])
    assert images.labels.tolist() == LABELS.tolist()
    assert images.classes[9] == "Ankle boot"


def cifar_files(root: Path, patch: pytest.MonkeyPatch) -> None:
    """Small files in CIFAR-10's format, with their own sums in place of the published ones."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir()

    def put(name: str, content: Any) -> list[str]:
        (folder / name).write_bytes(pickle.dumps(content))
        return [name, hashlib.md5((folder / name).read_bytes()).hexdigest()]

    rows = COLOUR.transpose(0, 3, 1, 2).reshape(40, -1)
    square = np.resize(rows, (40, 3072))
    names = [f"class {i}" for i in range(10)]
    batch = {"data": square, "labels": LABELS.tolist()}
    cifar = torchvision.datasets.CIFAR10
    patch.setattr(cifar, "train_list", [put(f"data_batch_{i}", batch) for i in (1, 2)])
    patch.setattr(cifar, "test_list", [put("test_batch", batch)])
    meta = put("batches.meta", {"label_names": names})
    patch.setattr(cifar, "meta", {"filename": meta[0], "key": "label_names", "md5": meta[1]})


def test_cifar_files_are_fetched_into_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole of ``fetch``, with files that torchvision takes for already downloaded."""
    there = tmp_path / "there"
    there.mkdir()
    cifar_files(there, monkeypatch)

    class There:
        def __init__(self, **_: object) -> None: ...
        def __enter__(self) -> str:
            return str(there)

        def __exit__(self, *_: object) -> None: ...

    monkeypatch.setattr(downloads.tempfile, "TemporaryDirectory", There)
    fetch("cifar10", tmp_path / "store")
    data = load("cifar10", root=tmp_path / "store")
    assert (len(data.train), len(data.test), data.input_shape, data.classes) == (80, 40, (3, 32, 32), 10)
    expected = np.resize(COLOUR.transpose(0, 3, 1, 2).reshape(40, -1), (40, 3072)).reshape(40, 3, 32, 32)
    assert data.test.images.equal(torch.from_numpy(expected))
    assert data.train.labels.tolist() == LABELS.tolist() * 2


@pytest.mark.parametrize("name", sorted(downloads.DOWNLOADS))
def test_a_failed_download_is_told_and_leaves_nothing(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr("urllib.request.urlopen", refuse)
    with pytest.raises(FedsimError, match=rf"'{name}' could not be downloaded.*Is there a network.*{name}"):
        fetch(name, tmp_path)
    assert not list(tmp_path.iterdir())


def test_only_known_names_are_fetched(tmp_path: Path) -> None:
    with pytest.raises(FedsimError, match="Did you mean 'cifar10'"):
        fetch("cifar", tmp_path)


def folder_of(root: Path, array: np.ndarray, labels: np.ndarray = LABELS) -> Path:
    for index, (pixels, label) in enumerate(zip(array, labels, strict=True)):
        (root / f"class {label}").mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(root / f"class {label}" / f"{index:03}.png")
    return root


def as_set(images: torch.Tensor) -> set[bytes]:
    return {image.numpy().tobytes() for image in images}


@pytest.mark.parametrize(("array", "shape"), [(GREY, (1, 5, 6)), (COLOUR, (3, 5, 6))])
def test_a_folder_is_split_and_loses_nothing(tmp_path: Path, array: np.ndarray, shape: tuple[int, ...]) -> None:
    import_folder(folder_of(tmp_path / "in", array), "mine", tmp_path, test_share=0.3, seed=1)
    data = load("mine", root=tmp_path)
    assert data.input_shape == shape
    assert data.train.label_counts() == (7,) * 4
    assert data.test.label_counts() == (3,) * 4
    assert data.train.classes == ("class 0", "class 1", "class 2", "class 3")
    expected = array if array.ndim == 4 else array[..., None]
    everything = as_set(torch.from_numpy(np.ascontiguousarray(expected.transpose(0, 3, 1, 2))))
    assert as_set(data.train.images) | as_set(data.test.images) == everything
    again = import_folder(tmp_path / "in", "again", tmp_path, test_share=0.3, seed=1) / "test.safetensors"
    assert again.read_bytes() == (tmp_path / "mine" / "test.safetensors").read_bytes()
    other = import_folder(tmp_path / "in", "other", tmp_path, test_share=0.3, seed=2) / "test.safetensors"
    assert again.read_bytes() != other.read_bytes()


def test_train_and_test_folders_are_the_splits(tmp_path: Path) -> None:
    folder_of(tmp_path / "in" / "train", COLOUR[:32], LABELS[:32])
    folder_of(tmp_path / "in" / "test", COLOUR[32:], LABELS[32:])
    import_folder(tmp_path / "in", "mine", tmp_path)
    data = load("mine", root=tmp_path)
    assert (len(data.train), len(data.test)) == (32, 8)
    (tmp_path / "in" / "test" / "class 3").rename(tmp_path / "in" / "test" / "class x")
    with pytest.raises(FedsimError, match="only one of train and test has the class folder 'class 3'"):
        import_folder(tmp_path / "in", "mine", tmp_path)


def test_odd_files_in_a_folder_are_named(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "in", COLOUR)
    odd = root / "class 1" / "odd.png"
    Image.fromarray(COLOUR[0].repeat(2, axis=0)).save(odd)
    with pytest.raises(FedsimError, match=r"odd\.png is 10x6.*Give a size"):
        import_folder(root, "mine", tmp_path)
    import_folder(root, "mine", tmp_path, size=8)
    assert load("mine", root=tmp_path).input_shape == (3, 8, 8)
    import_folder(root, "mine", tmp_path, size=(4, 7))
    assert load("mine", root=tmp_path).input_shape == (3, 4, 7)
    Image.fromarray(np.full((5, 6), 60_000, dtype=np.uint16)).save(odd)
    with pytest.raises(FedsimError, match=r"odd\.png has more than 8 bits"):
        import_folder(root, "mine", tmp_path)
    Image.fromarray(COLOUR[0]).save(odd)
    odd.write_bytes(odd.read_bytes()[:60])
    with pytest.raises(FedsimError, match=r"odd\.png cannot be read as an image"):
        import_folder(root, "mine", tmp_path)
    odd.write_text("no image")
    with pytest.raises(FedsimError, match=r"odd\.png cannot be read as an image"):
        import_folder(root, "mine", tmp_path)


def test_a_folder_without_classes_or_a_name_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for path, name, word in (
        (tmp_path / "none", "mine", "no such folder"),
        (tmp_path / "empty", "mine", "one subfolder of images a class"),
        (folder_of(tmp_path / "in", GREY), "../mine", "not a name"),
    ):
        with pytest.raises(FedsimError, match=word):
            import_folder(path, name, tmp_path)
    with pytest.raises(FedsimError, match=r"test_share = 1\.5"):
        import_folder(tmp_path / "in", "mine", tmp_path, test_share=1.5)


@pytest.mark.parametrize(
    ("array", "parameters", "shape"),
    [
        (GREY, {}, (1, 5, 6)),
        (COLOUR, {}, (3, 5, 6)),
        (COLOUR.transpose(0, 3, 1, 2), {}, (3, 5, 6)),
        (COLOUR / 255, {}, (3, 5, 6)),
        (COLOUR.transpose(0, 3, 1, 2), {"layout": "NHWC"}, (6, 3, 5)),
    ],
)
def test_npz_layouts(tmp_path: Path, array: np.ndarray, parameters: dict[str, Any], shape: tuple[int, ...]) -> None:
    np.savez(tmp_path / "in.npz", x_train=array, y_train=LABELS, x_test=array[:8], y_test=LABELS[:8, None])
    import_npz(tmp_path / "in.npz", "mine", tmp_path, **parameters)
    data = load("mine", root=tmp_path)
    assert data.input_shape == shape
    assert data.train.labels.tolist() == LABELS.tolist()
    if shape == (3, 5, 6):
        assert data.test.images.equal(torch.from_numpy(COLOUR[:8].transpose(0, 3, 1, 2)))


def test_an_npz_of_one_split_is_split(tmp_path: Path) -> None:
    np.savez(tmp_path / "in.npz", images=GREY, labels=LABELS)
    import_npz(tmp_path / "in.npz", "mine", tmp_path, classes=["a", "b", "c", "d", "none"])
    data = load("mine", root=tmp_path)
    assert (len(data.train), data.test.label_counts(), data.classes) == (32, (2, 2, 2, 2, 0), 5)


@pytest.mark.parametrize(
    ("arrays", "parameters", "word"),
    [
        ({"images": GREY, "labels": LABELS[:-1]}, {}, "images has 40 entries, labels has 39"),
        ({"images": GREY, "labels": LABELS - 1}, {}, "-1: not a class"),
        ({"images": GREY, "labels": LABELS}, {"classes": ["a", "b"]}, "2: not a class; there are 2"),
        ({"images": GREY, "labels": LABELS / 2}, {}, "labels: dtype"),
        ({"images": GREY, "labels": np.eye(4)[LABELS]}, {}, "labels: shape"),
        ({"images": GREY * 2.0, "labels": LABELS}, {}, "outside of"),
        ({"images": np.where(GREY > 9, np.nan, 0.5), "labels": LABELS}, {}, "outside of"),
        ({"images": GREY.astype(np.int32), "labels": LABELS}, {}, "neither uint8 nor floating"),
        ({"images": COLOUR[:, :3], "labels": LABELS}, {}, "Say layout"),
        ({"images": GREY[0], "labels": LABELS}, {}, "images: shape"),
        ({"pictures": GREY, "labels": LABELS}, {}, "pictures, labels. Name the arrays x_train"),
        ({"images": np.array([{}] * 4), "labels": LABELS}, {}, "plain numbers"),
    ],
)
def test_an_npz_of_another_kind_is_told(
    tmp_path: Path, arrays: dict[str, np.ndarray], parameters: dict[str, Any], word: str
) -> None:
    np.savez(tmp_path / "in.npz", **arrays)
    with pytest.raises(FedsimError) as caught:
        import_npz(tmp_path / "in.npz", "mine", tmp_path, **parameters)
    assert word in str(caught.value)
    assert not (tmp_path / "mine").exists()


def test_a_file_that_is_no_npz_is_told(tmp_path: Path) -> None:
    (tmp_path / "in.npz").write_bytes(b"PK nothing")
    np.save(tmp_path / "one.npy", GREY)
    for name, word in (("in.npz", "cannot be read"), ("none.npz", "cannot be read"), ("one.npy", "holds one array")):
        with pytest.raises(FedsimError, match=word):
            import_npz(tmp_path / name, "mine", tmp_path)


class Pictures:
    """A map-style data set of (PIL picture, label)."""

    def __init__(self, array: np.ndarray, labels: np.ndarray = LABELS, classes: list[str] | None = None) -> None:
        self.array, self.labels = array, labels
        if classes is not None:
            self.classes = classes

    def __len__(self) -> int:
        return len(self.array)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return Image.fromarray(self.array[index]), int(self.labels[index])


def pictures(classes: list[str] | None = None) -> Any:
    return Pictures(COLOUR, classes=classes), Pictures(COLOUR[:8], LABELS[:8])


def tensors(scale: float = 1.0) -> Any:
    images = torch.from_numpy(COLOUR.transpose(0, 3, 1, 2)) / 255 * scale
    return TensorDataset(images, torch.from_numpy(LABELS)), TensorDataset(images[:8], torch.from_numpy(LABELS[:8]))


def ready() -> Any:
    return load("fashion_mnist_small", train_size=20)


def wrong(kind: str) -> Any:
    odd = COLOUR.astype(object)
    return {
        "one": Pictures(COLOUR),
        "iterator": (iter([1]), iter([2])),
        "empty": (Pictures(COLOUR[:0]), Pictures(COLOUR)),
        "label": (Pictures(COLOUR, LABELS - 1, ["a", "b", "c", "d"]), Pictures(COLOUR)),
        "shape": ([(COLOUR[0].transpose(2, 0, 1), 0), (GREY[0], 0)], Pictures(COLOUR)),
        "item": ([odd, odd], Pictures(COLOUR)),
        "half": ([(COLOUR[0].transpose(2, 0, 1), 0.5)], Pictures(COLOUR)),
    }[kind]


@pytest.fixture
def theirs(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setitem(sys.modules, "their_data", sys.modules[__name__])
    return "their_data"


def test_data_of_the_users_own(theirs: str) -> None:
    """PIL pictures and float tensors of the same pixels give the same data set."""
    one = load(f"{theirs}:pictures", classes=["w", "x", "y", "z"])
    other = load(f"{theirs}:tensors", train_size=30)
    assert one.train.classes == ("w", "x", "y", "z")
    assert other.train.classes == ("0", "1", "2", "3")
    assert one.test.images.equal(torch.from_numpy(COLOUR[:8].transpose(0, 3, 1, 2)))
    assert other.train.images.equal(one.train.images[:30])
    assert one.mean == other.mean
    assert len(load(f"{theirs}:ready").train) == 20


@pytest.mark.parametrize(
    ("callable_", "parameters", "word"),
    [
        ("wrong", {"kind": "one"}, "gave a Pictures. It must give"),
        ("wrong", {"kind": "iterator"}, "not a map-style data set"),
        ("wrong", {"kind": "empty"}, "train: it has no examples"),
        ("wrong", {"kind": "label"}, "train: labels[0] = -1"),
        ("wrong", {"kind": "shape"}, "item 1 has the shape [1, 5, 6], item 0 has [3, 5, 6]"),
        ("wrong", {"kind": "item"}, "item 0"),
        ("wrong", {"kind": "half"}, "label 0.5 is not a whole number"),
        ("tensors", {"scale": 2.0}, "leave the normalisation to fedsim"),
        ("tensors", {"scales": 2.0}, "Did you mean 'scale'"),
        ("tensor", {}, "Did you mean 'tensors'"),
    ],
)
def test_data_of_another_kind_is_told(theirs: str, callable_: str, parameters: dict[str, Any], word: str) -> None:
    with pytest.raises(FedsimError) as caught:
        load(f"{theirs}:{callable_}", **parameters)
    assert word in str(caught.value)


def test_images_is_what_everything_becomes(theirs: str) -> None:
    assert isinstance(load(f"{theirs}:pictures").train, Images)
