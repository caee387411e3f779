"""The reproductions on selection: tiny runs, gone on with, and pages whose numbers are known."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from experiments.compare.statistics import Wait
from experiments.compare.tables import NONE
from experiments.reproduce import exposure, mavericks, shapley_fairness
from experiments.reproduce import exposure_page as leaked
from experiments.reproduce import mavericks_page as reached
from experiments.reproduce import mavericks_targets as targets
from experiments.reproduce import shapley_fairness_page as valued
from experiments.reproduce.mavericks_records import wait
from fedsim.errors import FedsimError

TINY = [
    "data.name=fashion_mnist_small",
    "data.train_size=400",
    "data.test_size=60",
    "data.validation_size=20",
    "data.clients=6",
    "selection.clients_per_round=3",
    "model.width=2",
]


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def call(main: Callable[[], None], monkeypatch: pytest.MonkeyPatch, folder: Path, *arguments: str) -> None:
    changes = [word for change in TINY for word in ("--set", change)]
    paths = ["--out", str(folder / "out"), "--runs", str(folder / "runs")]
    monkeypatch.setattr("sys.argv", [sys.argv[0], *paths, "--workers", "1", *changes, *arguments])
    main()


def test_mavericks_run_in_pairs_and_a_second_call_runs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(mavericks.PARTS, "main", mavericks.Part("one_exclusive", (), ("uniform", "shapley"), main=True))
    arguments = ("--parts", "main", "--seeds", "1", "--set", "training.rounds=2")
    call(mavericks.main, monkeypatch, tmp_path, *arguments)
    records = lines(tmp_path / "out" / "mavericks.jsonl")
    assert [(r["selector"], r["seed"]) for r in records] == [("uniform", 0), ("shapley", 0)]
    assert all(r["finished"] and len(r["accuracies"]) == 3 and len(r["mavericks"]) == 2 for r in records)
    assert records[0]["accuracies"][0] == records[1]["accuracies"][0]  # paired: the same model to begin with
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("*.jsonl")}
    call(mavericks.main, monkeypatch, tmp_path, *arguments)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("*.jsonl")} == before
    assert lines(tmp_path / "out" / "mavericks.jsonl") == records
    assert all(r["rounds"] == [0, 1, 2] and r["changes"] == [*TINY, "training.rounds=2"] for r in records)
    longer = ("--set", "training.rounds=3", "--runs", str(tmp_path / "new"))
    with pytest.raises(FedsimError, match=r"different settings: 2 rounds .*; 3 rounds .* other folders"):
        call(mavericks.main, monkeypatch, tmp_path, *arguments, *longer)
    assert not (tmp_path / "new").exists()
    assert (tmp_path / "out" / "mavericks.png").stat().st_size > 0


def test_other_targets_are_asked_of_the_same_runs() -> None:
    """Uniform gains a point a round; the other is there ten rounds sooner, and never gets to 95."""
    records = [
        {"selector": name, "seed": seed, "last": 100, "accuracies": accuracies}
        for name, accuracies in (
            ("uniform", [number / 100 for number in range(101)]),
            ("fedemd", [min(0.94, (number + 10) / 100) for number in range(101)]),
        )
        for seed in range(5)
    ]
    table = targets.targets_table(records, 100).splitlines()
    assert table[2] == "| 80.0 % (80 %) | 80 | 70 (-10.0 [-10.0, -10.0], -12 %) |"
    assert table[-1] == f"| 99.0 % (99 %) | 99 | {NONE} (+1.0 [+1.0, +1.0], +1 %) |"


def test_rounds_are_those_evaluated_and_old_lines_have_every_one() -> None:
    old = made_up("uniform", 0, [0.1, 0.5, 0.7])
    sparse = old | {"rounds": [0, 5, 10], "last": 12}
    assert [wait(one, 0.6) for one in (old, sparse)] == [Wait(2, reached=True), Wait(10, reached=True)]
    assert [wait(one, 0.9) for one in (old, sparse)] == [Wait(2, reached=False), Wait(12, reached=False)]


def test_one_layout_has_one_setting(tmp_path: Path) -> None:
    old = made_up("uniform", 0, [0.1, 0.5, 0.7])
    same = made_up("fedemd", 0, [0.1, 0.6, 0.7]) | {"changes": []}
    reached.write_page(tmp_path, "page", [old, same, made_up("uniform", 0, [0.1, 0.2]) | {"layout": "cifar10"}])
    assert "a round, 1 or 2 rounds" in (tmp_path / "page.md").read_text()
    for other in ({"changes": ["model.width=2"]}, {"total": 3}):
        with pytest.raises(FedsimError, match="'one_exclusive' have different settings: 2 rounds with no changes; "):
            reached.write_page(tmp_path, "page", [old, same | other])


@pytest.mark.parametrize("name", mavericks.PARTS)
def test_every_part_can_be_planned_and_its_mavericks_are_known(name: str, tmp_path: Path) -> None:
    part = mavericks.PARTS[name]
    small = [change for change in TINY if not change.startswith("data.name")]
    jobs = mavericks.planned(part, tmp_path, 1, ["data.name=fashion_mnist_small", *small])
    assert [job.experiment.config.selection.name for job in jobs] == list(part.selectors)
    experiment = jobs[0].experiment
    owners = mavericks.mavericks(experiment)
    labels = experiment.data.train.labels
    owned = experiment.config.data.partition.parameters["owned"]
    for label in owned:
        having = {client for client, shard in enumerate(experiment.shards) if (labels[shard] == label).any()}
        assert having <= owners


def made_up(selector: str, seed: int, accuracies: list[float]) -> dict[str, Any]:
    return {
        "layout": "one_exclusive",
        "selector": selector,
        "seed": seed,
        "total": len(accuracies) - 1,
        "finished": True,
        "last": len(accuracies) - 1,
        "accuracies": accuracies,
        "mavericks": [1] + [0] * (len(accuracies) - 2),
        "seconds": 60.0,
    }


def test_rounds_to_the_pooled_target_and_to_each_seeds_own(tmp_path: Path) -> None:
    records = [
        made_up("uniform", 0, [0.1, 0.5, 0.7, 0.8]),
        made_up("uniform", 1, [0.1, 0.5, 0.6, 0.7]),
        made_up("fedemd", 0, [0.1, 0.8, 0.8, 0.8]),
        made_up("fedemd", 1, [0.1, 0.6, 0.795, 0.7]),
    ]
    uniform, fedemd = reached.rows(records)
    assert reached.tau(records[:2]) == pytest.approx(0.792)
    assert [(w.round, w.reached) for w in uniform.waits.values()] == [(3, True), (3, False)]
    assert [w.round for w in uniform.own.values()] == [3, 3]
    assert [(w.round, w.reached) for w in fedemd.waits.values()] == [(1, True), (2, True)]
    assert fedemd.saved is not None
    assert fedemd.saved.difference == -1.5
    reached.write_page(tmp_path, "page", [*records, made_up("afl", 0, [0.1]) | {"total": 3, "finished": False}])
    page = (tmp_path / "page.md").read_text()
    row = next(line for line in page.splitlines() if line.startswith("| `fedemd`")).split(" | ")
    assert row[1:5] == ["2", "79.8 %", f"1 [1, {NONE}]", "0"]
    assert row[5] == "-1.5"  # two pairs have no interval
    assert row[6] == "-50 %"
    assert row[10] == "0.33"  # a Maverick in one of three rounds
    assert "- one_exclusive, `afl`, seed 0" in page


def test_values_of_the_maverick_with_and_without_the_worth_of_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds = ("--set", "training.rounds=4", "--seeds", "1")
    call(shapley_fairness.main, monkeypatch, tmp_path, *rounds)
    records = lines(tmp_path / "out" / "shapley-fairness.jsonl")
    assert {record["metric"] for record in records} == {"accuracy", "loss"}
    for record in records:
        gained = record["after"] - record["before"]
        assert record["value"] + record["others"] * (record["clients"] - 1) == pytest.approx(gained, abs=1e-9)
    assert (tmp_path / "out" / "shapley-fairness.png").stat().st_size > 0


def valued_record(seed: int, round: int, value: float, others: float, before: float) -> dict[str, Any]:
    after = before + value + 4 * others
    told = {"value": value, "others": others, "clients": 5, "rank": 1 if value > others else 5}
    return {"metric": "accuracy", "seed": seed, "round": round, "before": before, "after": after, **told}


def test_the_studys_ratio_tends_to_one_for_who_adds_nothing() -> None:
    nothing = [valued_record(0, 150, 0.0, 0.001, 0.9)]
    assert valued.ratio(nothing) == 0
    assert valued.study_ratio(nothing) == valued.nothing_ratio(nothing) == pytest.approx(0.9 / 0.904)
    twice = [valued_record(0, 1, 0.1, 0.02, 0.1), valued_record(1, 2, 0.1, 0.02, 0.1)]
    assert valued.ratio(twice) == pytest.approx(5 * 0.1 / 0.18)
    assert valued.study_ratio(twice) == pytest.approx((0.1 + 0.02) / (0.28 / 5))
    assert valued.interval(twice, valued.difference) == pytest.approx((0.08, 0.08, 0.08))
    apart = [valued_record(0, 1, 0.1, 0.02, 0.1), valued_record(1, 2, 0.3, 0.02, 0.1)]
    assert valued.interval(apart, valued.difference) == pytest.approx((0.18, 0.08, 0.28))
    row = valued.table(apart).splitlines()[-1]
    assert row.startswith("| 1 to 10 | 2 | +0.2000 | +0.0200 | +0.1800 [+0.0800, +0.2800] | 1.0 |")


def test_rounds_of_two_metrics_count_once(tmp_path: Path) -> None:
    accuracy = [valued_record(seed, round, 0.1, 0.02, 0.1) for seed, round in ((0, 1), (0, 7), (1, 7))]
    valued.write_page(tmp_path, "page", [*accuracy, *({**record, "metric": "loss"} for record in accuracy)])
    assert "the rows are of the 3 rounds" in (tmp_path / "page.md").read_text()


def test_the_ledger_of_each_run_is_told_by_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exposure, "SELECTORS", ("uniform", "fedfast"))
    call(exposure.main, monkeypatch, tmp_path, "--seeds", "1", "--rounds", "2", "--iterations", "3")
    records = lines(tmp_path / "out" / "exposure.jsonl")
    assert [r["client"] for r in records] == [*range(6), *range(6)]
    assert {r["client"] for r in records if r["maverick"]} == {5}
    for selector in ("uniform", "fedfast"):
        own = [r for r in records if r["selector"] == selector]
        assert sum(r["chosen"] for r in own) == sum(len(r["psnr"]) for r in own) == 6
    for r in records:
        assert r["best"] == max(r["psnr"], default=None)
        assert r["best_grey"] == max(r["grey"], default=None)
        assert all(0.1 <= share <= 0.4 for share in r["guess"])
    assert (tmp_path / "out" / "exposure.png").stat().st_size > 0
    assert "| `fedfast` | Maverick | 1 |" in (tmp_path / "out" / "exposure.md").read_text()


def exposed(selector: str, seed: int, client: int, psnr: list[float]) -> dict[str, Any]:
    return {
        "selector": selector,
        "seed": seed,
        "accuracy": 0.5,
        "client": client,
        "maverick": client == 2,
        "chosen": 2 * len(psnr),
        "best": max(psnr, default=None),
        "best_grey": 8.0 if psnr else None,
        "recovered": sum(one >= 20 for one in psnr),
        "rounds": list(range(1, 1 + len(psnr))),
        "psnr": psnr,
        "grey": [8.0] * len(psnr),
        "labels": [1.0] * len(psnr),
        "guess": [0.1] * len(psnr),
    }


def test_who_was_never_attacked_has_nothing_recovered_and_no_best() -> None:
    records = [
        exposed("uniform", 0, 0, [30.0, 10.0]),
        exposed("uniform", 0, 1, []),
        exposed("uniform", 0, 2, []),
        exposed("fedemd", 0, 0, []),
        exposed("fedemd", 0, 1, []),
        exposed("fedemd", 0, 2, [25.0, 21.0, 9.0]),
    ]
    others, own = (leaked.by_seed(records, "uniform", maverick=m, measure=leaked.best) for m in (False, True))
    assert (others, own) == ({0: 30.0}, {})
    assert leaked.by_seed(records, "uniform", maverick=False, measure=leaked.clients_recovered) == {0: 0.5}
    assert leaked.by_seed(records, "fedemd", maverick=True, measure=leaked.recovered) == {0: 2.0}
    row = leaked.table(records).splitlines()[4].split(" | ")
    assert row[:3] == ["| `fedemd`", "Maverick", "1"]
    assert row[4:10] == ["6.0", "3.0", "2.00", "100%", "25.0", "8.0"]
    assert leaked.against_uniform(records).splitlines()[-1].startswith("| `fedemd` | +6.0 |")


def test_intervals_stay_within_what_a_measure_can_be() -> None:
    records = [exposed("uniform", seed, 2, psnr) for seed, psnr in enumerate([[25.0], [9.0], [9.0]])]
    share, best = (
        leaked.over_seeds(records, "uniform", maverick=True, measure=measure)
        for measure in (leaked.clients_recovered, leaked.best)
    )
    assert share.value == pytest.approx(1 / 3)
    assert (share.low, share.high) == (0.0, 1.0)
    assert best.low == 0.0
    assert best.high is not None
    assert best.high > 25.0
