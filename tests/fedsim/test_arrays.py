"""Arrays that travel as one vector: to everybody who does not ask they are Flower's."""

import copy
import pickle

import numpy as np
import pytest
import torch
from flwr.app import Array as FlowerArray
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict

from fedsim.arrays import Array, from_record, record_size, to_record, vector_of, wire_size
from fedsim.engines.simulated import identify
from fedsim.models import build, laid_out
from server.fedavg import FedAvg
from server.inspection import Inspector

identify()  # else no message can be made

MODEL = {"conv.weight": torch.randn(3, 2, 2, 2), "scale": torch.tensor(1.5), "fc.bias": torch.arange(4.0)}


def test_tensors_of_one_type_are_one_vector_and_come_back_as_they_were() -> None:
    record = to_record(MODEL)
    packed = vector_of(record)
    assert packed is not None
    assert (packed[0] == np.concatenate([tensor.numpy().ravel() for tensor in MODEL.values()])).all()
    assert list(record) == list(MODEL)
    for name, tensor in from_record(record).items():
        assert torch.equal(tensor, MODEL[name])
        assert record[name] == FlowerArray(MODEL[name].numpy())


def test_to_flowers_transport_it_is_flowers_own() -> None:
    """Which takes it apart into objects with ids, and puts it together by the name of its type."""
    ours, theirs = to_record(MODEL), ArrayRecord(MODEL)  # type: ignore[arg-type]
    assert ours.object_id == theirs.object_id
    assert ours.deflate() == theirs.deflate()
    assert ArrayRecord.inflate(ours.deflate(), ours.children) == theirs


def test_a_layout_of_channels_last_makes_no_difference_to_the_record() -> None:
    model = build("cnn", (1, 28, 28), 10)
    expected = {name: tensor.numpy().tobytes() for name, tensor in from_record(to_record(model.state_dict())).items()}
    record = to_record(laid_out(model).state_dict())
    assert {name: tensor.numpy().tobytes() for name, tensor in from_record(record).items()} == expected


def test_tensors_of_several_types_have_no_vector() -> None:
    record = to_record(MODEL | {"count": torch.tensor(3)})
    assert vector_of(record) is None
    assert from_record(record)["count"].item() == 3


@pytest.mark.parametrize("way", ["pickle", "copy", "deepcopy"])
def test_copies_hold_the_same(way: str) -> None:
    record = to_record(MODEL)
    copied = {
        "pickle": lambda: pickle.loads(pickle.dumps(record)),
        "copy": record.copy,
        "deepcopy": lambda: copy.deepcopy(record),
    }[way]()
    assert copied == record
    if way == "pickle":
        assert vector_of(copied)[1] is vector_of(record)[1]


def test_who_changes_an_array_drops_the_vector() -> None:
    record = to_record(MODEL)
    record["scale"] = Array(np.array(2.5, dtype=np.float32))
    assert vector_of(record) is None
    assert vector_of(pickle.loads(pickle.dumps(record))) is None
    assert from_record(pickle.loads(pickle.dumps(record)))["scale"].item() == 2.5
    record = to_record(MODEL)
    del record["scale"]
    assert vector_of(record) is None
    assert list(record) == ["conv.weight", "fc.bias"]


def test_the_size_on_the_wire_is_that_of_flowers_arrays() -> None:
    record = to_record(MODEL)
    assert record_size(record) == sum(wire_size(array) for array in record.values())
    assert record_size(record) == sum(len(FlowerArray(tensor.numpy()).data) for tensor in MODEL.values())


def test_the_mean_of_vectors_is_flowers_mean_bit_for_bit() -> None:
    models = [{name: torch.randn(tensor.shape) for name, tensor in MODEL.items()} for _ in range(4)]

    def mean(*, packed: bool) -> dict[str, bytes]:
        arrays = [to_record(one) if packed else ArrayRecord(dict(one)) for one in models]  # type: ignore[arg-type]
        found, _ = FedAvg().aggregate_train(1, [reply(client, record) for client, record in enumerate(arrays)])
        assert found is not None
        assert (vector_of(found) is not None) == packed
        return {name: array.numpy().tobytes() for name, array in found.items()}

    assert mean(packed=True) == mean(packed=False)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_is_found_in_a_vector(value: float) -> None:
    spoilt = {name: tensor.clone() for name, tensor in MODEL.items()}
    spoilt["fc.bias"][2] = value
    good, refused = sort(spoilt)
    assert not good
    assert refused == {0: "fc.bias holds NaN or infinite values"}


def test_large_numbers_whose_sum_overflows_are_finite() -> None:
    large = {name: torch.full_like(tensor, 3e38) for name, tensor in MODEL.items()}
    assert sort(large)[1] == {}


def test_a_vector_of_another_layout_is_refused() -> None:
    other = {
        "conv.weight": MODEL["conv.weight"].reshape(2, 3, 2, 2),
        "scale": MODEL["scale"],
        "fc.bias": MODEL["fc.bias"],
    }
    assert "shape" in sort(other)[1][0]


def sort(arrays: dict[str, torch.Tensor]) -> tuple[list[Message], dict[int, str]]:
    asked = Message(RecordDict(), 0, "train")
    return Inspector(grid=None).sort([asked], [reply(0, to_record(arrays))], to_record(MODEL))  # type: ignore[arg-type]


def reply(client: int, arrays: ArrayRecord) -> Message:
    asked = Message(RecordDict(), client, "train")
    metrics = MetricRecord({"num-examples": client + 1, "train-loss": 0.5})
    content = {"arrays": arrays, "metrics": metrics, "client": ConfigRecord({"partition-id": client})}
    return Message(RecordDict(content), reply_to=asked)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"fc.bias": torch.arange(4.0) + 1j}, "fc.bias has type complex64 instead of float32"),
        ({name: tensor.to(torch.complex64) for name, tensor in MODEL.items()}, "has type complex64 instead of float32"),
    ],
    ids=["one", "all"],
)
def test_numbers_of_another_kind_are_refused(changed: dict[str, torch.Tensor], reason: str) -> None:
    assert reason in sort(MODEL | changed)[1][0]


@pytest.mark.parametrize("key", ["num-examples", "train-loss"])
def test_a_list_where_a_number_belongs_is_refused(key: str) -> None:
    answer = reply(0, to_record(MODEL))
    answer.content["metrics"][key] = [1, 2]  # type: ignore[index]
    asked = Message(RecordDict(), 0, "train")
    good, refused = Inspector(grid=None).sort([asked], [answer], to_record(MODEL))  # type: ignore[arg-type]
    assert not good
    assert refused == {0: f"sent a list of numbers as {key}"}
