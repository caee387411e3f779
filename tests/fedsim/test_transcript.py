"""Transcripts: what goes in comes out, bit for bit; damage is named; nothing is unpickled."""

import json
from pathlib import Path

import pytest
import torch

from fedsim.errors import FedsimError
from fedsim.protocol import Observation, TrainingPlan
from fedsim.transcript import INDEX, Transcript


def observation(round: int, client: int, sent: dict[str, torch.Tensor] | None = None) -> Observation:
    generator = torch.Generator().manual_seed(100 * round + client)
    draw = {name: torch.randn(3, 2, generator=generator) for name in ("z.weight", "a.bias")}
    counter = {"steps": torch.tensor(7)}
    sent = sent or {**draw, **counter}
    return Observation(round, client, sent, {**draw, **counter}, "gradient", 5, TrainingPlan("fedsgd", batch_size=5))


def test_what_goes_in_comes_out(tmp_path: Path) -> None:
    written = [observation(1, 3), observation(1, 4), observation(2, 3)]
    transcript = Transcript.create(tmp_path / "t")
    for one in written:
        transcript.append(one)
    read = list(Transcript.open(tmp_path / "t"))
    assert len(read) == 3
    for before, after in zip(written, read, strict=True):
        assert (before.round, before.client, before.kind, before.examples, before.plan) == (
            after.round, after.client, after.kind, after.examples, after.plan,
        )  # fmt: skip
        assert list(before.received) == list(after.received)  # the order of layers too
        for name in before.received:
            assert torch.equal(before.received[name], after.received[name])
            assert torch.equal(before.sent[name], after.sent[name])
    assert [o.round for o in Transcript.open(tmp_path / "t").of_client(3)] == [1, 2]
    assert [o.client for o in Transcript.open(tmp_path / "t").of_round(1)] == [3, 4]


def test_the_global_arrays_of_a_round_are_stored_once(tmp_path: Path) -> None:
    shared = dict(observation(1, 0).sent)
    transcript = Transcript.create(tmp_path)
    for client in range(5):
        transcript.append(observation(1, client, shared))
    transcript.append(observation(1, 9, {name: tensor.clone() for name, tensor in shared.items()}))  # equal, not same
    assert len(list(tmp_path.glob("sent-*"))) == 1
    assert len(list(tmp_path.glob("received-*"))) == 6


def test_a_torn_last_line_loses_nothing_else(tmp_path: Path) -> None:
    transcript = Transcript.create(tmp_path)
    transcript.append(observation(1, 3))
    with (tmp_path / INDEX).open("a") as index:
        index.write('{"round": 1, "cli')
    assert [o.client for o in Transcript.open(tmp_path)] == [3]


def test_damage_is_named(tmp_path: Path) -> None:
    with pytest.raises(FedsimError, match="no transcript here"):
        Transcript.open(tmp_path)
    transcript = Transcript.create(tmp_path)
    transcript.append(observation(1, 3))
    with pytest.raises(FedsimError, match="holds a transcript already"):
        Transcript.create(tmp_path)
    next(tmp_path.glob("received-*")).write_bytes(b"\x80\x04}q\x00.")  # a pickle
    with pytest.raises(FedsimError, match="missing or damaged"):
        list(Transcript.open(tmp_path))


def test_a_transcript_cannot_read_outside_its_folder(tmp_path: Path) -> None:
    transcript = Transcript.create(tmp_path / "t")
    transcript.append(observation(1, 3))
    line = json.loads((tmp_path / "t" / INDEX).read_text())
    (tmp_path / "t" / INDEX).write_text(json.dumps(line | {"sent": "../../etc/passwd"}) + "\n")
    with pytest.raises(FedsimError, match="outside the transcript"):
        Transcript.open(tmp_path / "t")
