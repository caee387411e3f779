"""Whole runs on real images: the walls between server, adversary and truth."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from experiments import Experiment, checkpoint, run
from experiments.attacking import attack_run
from experiments.campaigns import reconstruct
from experiments.config import attack_table
from experiments.run_folder import RunFolder
from fedsim.data import DataSet, Images
from fedsim.errors import FedsimError
from fedsim.transcript import Transcript

SMALL = {"name": "fashion_mnist_small", "train_size": 120, "test_size": 50, "clients": 4}
ATTACK = {"name": "dlg", "rounds": ["first", "last"], "clients": 2, "iterations": 40, "restarts": 1, "lpips": False}


def experiment(**tables: Any) -> Experiment:
    training = {"algorithm": "fedsgd", "rounds": 3, "batch_size": 2, "learning_rate": 0.5}
    return Experiment.of({"data": SMALL, "model": {"name": "lenet"}, "training": training, **tables})


def raw(arrays: dict[str, torch.Tensor]) -> dict[str, bytes]:
    return {name: tensor.numpy().tobytes() for name, tensor in arrays.items()}


def without_times(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in record.items() if key != "seconds"} for record in records]


def pictures(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "pictures").iterdir()}


def test_the_wiretap_and_the_attacks_leave_training_untouched(tmp_path: Path) -> None:
    plain = run(experiment(), tmp_path / "plain")
    tapped = run(experiment(wiretap={"record": True}, attacks=[ATTACK]), tmp_path / "tapped")
    assert raw(plain.final_arrays) == raw(tapped.final_arrays)
    assert len(tapped.attacks) == 4


def test_the_same_seed_gives_the_same_bytes_twice(tmp_path: Path) -> None:
    """Inline, or in processes of their own with the clients in threads: the same results."""
    one = run(experiment(attacks=[ATTACK]), tmp_path / "one")
    other = run(experiment(attacks=[ATTACK], engine={"workers": 2, "attack_workers": 2}), tmp_path / "other")
    assert raw(one.final_arrays) == raw(other.final_arrays)
    assert without_times(one.metrics) == without_times(other.metrics)
    assert without_times(one.attacks) == without_times(other.attacks)
    assert pictures(one.folder) == pictures(other.folder)
    third = run(experiment(seed=1, attacks=[ATTACK]), tmp_path / "third")
    assert raw(third.final_arrays) != raw(one.final_arrays)


def test_an_attack_from_the_transcript_is_the_one_in_the_protocol(tmp_path: Path) -> None:
    live = run(experiment(wiretap={"record": True}, attacks=[ATTACK]), tmp_path / "live")
    recorded = run(experiment(wiretap={"record": True}), tmp_path / "recorded")
    victims = sorted({record["client"] for record in live.attacks if record["round"] == 1})
    found = attack_run(
        recorded.folder, "dlg", ["iterations=40", "restarts=1", "lpips=false"], clients=victims, rounds=[1]
    )
    assert without_times(found.records) == without_times([r for r in live.attacks if r["round"] == 1])
    assert found.report.exists()


def test_attacks_on_model_updates_from_the_transcript_are_those_in_the_protocol(tmp_path: Path) -> None:
    """Several local steps, batches guessed by seed, an unknown of the simulator's own: loss, scores and pictures."""
    training = {"rounds": 2, "batch_size": 2, "local_epochs": 2, "learning_rate": 0.05}
    common = {"iterations": 8, "clients": [0], "rounds": ["last"], "lpips": False}
    tables = [{"name": name} | common for name in ("agic", "simulation", "sme")]
    data = SMALL | {"train_size": 16}
    live = run(experiment(data=data, training=training, wiretap={"record": True}, attacks=tables), tmp_path / "live")
    recorded = run(experiment(data=data, training=training, wiretap={"record": True}), tmp_path / "recorded").folder
    again = []
    for table in tables:
        found = attack_run(recorded, table["name"], ["iterations=8", "lpips=false"], clients=[0], rounds=[2])
        again += found.records
    assert [record["attack"] for record in again] == ["agic", "simulation", "sme"]
    assert len({record["loss"] for record in again}) == 3
    assert without_times(again) == without_times(live.attacks)
    assert pictures(recorded) == pictures(live.folder)


def several(observations: int) -> Experiment:
    """Model updates, attacked in the last of three rounds with some observations of each victim; not, with none."""
    training = {"rounds": 3, "batch_size": 2, "learning_rate": 0.05}
    table = {"name": "agic", "iterations": 6, "clients": [0, 2], "rounds": ["last"], "lpips": False}
    tables = [table | {"observations": observations}] if observations else []
    data = SMALL | {"train_size": 16}
    return experiment(data=data, training=training, wiretap={"record": True}, attacks=tables)


def test_observations_of_a_victim_are_used_together_live_and_from_the_transcript(tmp_path: Path) -> None:
    live = run(several(2), tmp_path / "live")
    single = run(several(1), tmp_path / "single")
    assert [(r["round"], r["client"], r["observations"]) for r in live.attacks] == [(3, 0, 2), (3, 2, 2)]
    assert [r["loss"] for r in live.attacks] != [r["loss"] for r in single.attacks]
    recorded = run(several(0), tmp_path / "recorded").folder
    changes = ["iterations=6", "lpips=false", "observations=2"]
    found = attack_run(recorded, "agic", changes, clients=[0, 2], rounds=[3])
    assert without_times(found.records) == without_times(live.attacks)
    assert pictures(recorded) == pictures(live.folder)
    # By hand, from what was overheard: the last two rounds, and not the first.
    transcript = Transcript.open(live.folder / "transcript")
    one = Experiment.load(live.folder / "experiment.toml")
    before, seen = transcript.of_client(0)[1:]
    assert (before.round, seen.round) == (2, 3)
    again = reconstruct(one, one.config.attacks[0], seen, [before])
    assert again.loss == live.attacks[0]["loss"]


def test_as_many_observations_are_used_as_there_are(tmp_path: Path) -> None:
    live = run(several(9), tmp_path / "live")
    assert [record["observations"] for record in live.attacks] == [3, 3]


def test_a_run_cut_off_remembers_what_later_attacks_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run(several(3), tmp_path / "whole")
    write = checkpoint.write

    def cut(folder: Path, state: checkpoint.Checkpoint) -> None:
        write(folder, state)
        if state.round == 2:
            raise InterruptedError

    monkeypatch.setattr(checkpoint, "write", cut)
    with pytest.raises(InterruptedError):
        run(several(3), tmp_path / "cut")
    monkeypatch.setattr(checkpoint, "write", write)
    resumed = run(several(3), tmp_path / "cut", resume=True)
    assert without_times(resumed.attacks) == without_times(whole.attacks)
    assert not (resumed.folder / "checkpoint" / "overheard").exists()


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"name": "inverting_gradients", "observations": 2}, "uses at most 1 observation of a victim together, but 2"),
        ({"name": "agic", "observations": 0}, "attacks.*observations"),
        (
            {"name": "agic", "observations": 2, "batch_order": "given", "grants": ["batch_order"]},
            "at most 1 observation",
        ),
    ],
)
def test_too_many_observations_are_refused_before_the_run(tmp_path: Path, table: dict[str, Any], words: str) -> None:
    training = {"rounds": 3, "batch_size": 2, "learning_rate": 0.05}
    with pytest.raises(FedsimError, match=words):
        run(experiment(training=training, attacks=[table]), tmp_path / "run")
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_observations_of_different_batches_are_refused_before_the_run(tmp_path: Path) -> None:
    with pytest.raises(FedsimError, match="each gradient here is of a batch drawn anew"):
        run(experiment(attacks=[{"name": "agic", "observations": 2}]), tmp_path / "run")


def test_erasing_the_truth_changes_no_reconstruction(tmp_path: Path) -> None:
    """The images and labels on the server's machine are overwritten before the attack: it cannot tell."""
    recorded = run(experiment(wiretap={"record": True}), tmp_path / "recorded").folder
    transcript = Transcript.open(recorded / "transcript")
    seen = transcript.read(transcript.entries[0])
    table = attack_table({"name": "dlg", "iterations": 40, "restarts": 1})
    honest, erased = (Experiment.load(recorded / "experiment.toml") for _ in range(2))
    data = honest.data
    erased.__dict__["data"] = DataSet(data.name, wrong(data.train), wrong(data.test), data.mean, data.std)
    assert not torch.equal(honest.truth(seen.client, seen.round)[0], erased.truth(seen.client, seen.round)[0])
    found, blind = (reconstruct(one, table, seen) for one in (honest, erased))
    assert torch.equal(found.images, blind.images)
    assert torch.equal(found.labels, blind.labels)


def wrong(images: Images) -> Images:
    return Images(255 - images.images.flip(0), images.labels.flip(0), images.classes)


def test_every_victim_is_counted_even_one_whose_attack_breaks(tmp_path: Path) -> None:
    broken = {"name": f"{__name__}:broken", "label": "broken", "rounds": "all", "lpips": False}
    result = run(experiment(attacks=[broken]), tmp_path / "run")
    assert len(result.attacks) == 4 * 3
    for record in result.attacks:
        assert record["stopped_by"].startswith("failed: no luck")
        assert record["psnr"] == pytest.approx(record["baseline_psnr"])


def broken() -> Any:
    """An attack that always fails numerically."""
    from adversary import Needs

    class Broken:
        needs = Needs()

        def reconstruct(self, *_: Any, **__: Any) -> Any:
            raise RuntimeError("no luck")

    return Broken()


def test_a_failing_client_is_booked_and_the_round_goes_on(tmp_path: Path) -> None:
    one = experiment()

    def shard(client: int) -> Images:
        if client == 2:
            raise OSError("disk on fire")
        return one.shard(client)

    one.__dict__["environment"] = replace(one.environment, shard=shard)
    clients = RunFolder.open(run(one, tmp_path / "run").folder).read_clients()
    failed = [record for record in clients if record["failure"]]
    assert [(record["round"], record["client"]) for record in failed] == [(1, 2), (2, 2), (3, 2)]
    assert all("disk on fire" in record["failure"] for record in failed)


def test_the_interface_users_rely_on() -> None:
    """Everything the design promises can be imported from where it promises it."""
    from adversary import ATTACKS, Knowledge, Reconstruction
    from server import HonestButCurious, Selective
    from server.selection import SELECTORS

    assert set(ATTACKS.names()) >= {"dlg", "idlg", "inverting_gradients"}
    assert set(SELECTORS.names()) >= {"uniform", "by_examples"}
    assert all(isinstance(part, type) for part in (Knowledge, Reconstruction, HonestButCurious, Selective))
