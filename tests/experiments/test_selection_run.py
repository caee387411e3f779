"""Selectors inside runs: told what they declare, resumed without a trace, and shown in the report."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from clients import training
from experiments import Experiment, checkpoint, run
from experiments.aggregating import aggregation_of
from experiments.checkpoint import Checkpoint
from experiments.report import write_report
from fedsim.arrays import to_record
from fedsim.errors import FedsimError
from fedsim.protocol import Observation
from server import HonestButCurious, Selective, federate
from server.selection import SELECTORS, RoundOutcome

DATA = {
    "name": "fashion_mnist_small",
    "train_size": 300,
    "test_size": 50,
    "clients": 10,
    "partition": {"name": "mavericks", "owned": [1]},
}


def experiment(selector: str = "uniform", rounds: int = 4, **parameters: object) -> Experiment:
    return Experiment.of(
        {
            "data": DATA,
            "model": {"name": "lenet"},
            "training": {"rounds": rounds, "batch_size": 20},
            "selection": {"name": selector, "clients_per_round": 3, **parameters},
        }
    )


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


class Cut(Exception):  # noqa: N818
    """The power is gone."""


@pytest.mark.parametrize(
    ("selector", "given"),
    [("fedemd", {}), ("oort", {}), ("tifl", {"tiers": 3, "interval": 2}), ("power_of_choice", {"candidates": 6})],
)
def test_a_run_cut_off_selects_as_one_that_was_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, selector: str, given: dict[str, object]
) -> None:
    one = experiment(selector, **given)
    whole = run(one, tmp_path / "whole")
    write = checkpoint.write

    def cut(folder: Path, state: Checkpoint) -> None:
        if state.round == 3:
            raise Cut
        write(folder, state)

    monkeypatch.setattr(checkpoint, "write", cut)
    with pytest.raises(Cut):
        run(one, tmp_path / "cut")
    monkeypatch.setattr(checkpoint, "write", write)
    resumed = run(one, tmp_path / "cut", resume=True)
    for name in ("clients.jsonl", "partition.jsonl"):
        assert lines(tmp_path / "cut" / name) == lines(tmp_path / "whole" / name)
    assert all(tensor.equal(resumed.final_arrays[name]) for name, tensor in whole.final_arrays.items())


def test_contribution_is_told_the_cohorts_own_updates() -> None:
    """What the contribution is computed from is what a wiretap around the same strategy hears."""
    one = experiment()
    heard: list[Observation] = []
    told: list[RoundOutcome] = []

    def contribution(outcome: RoundOutcome) -> Mapping[int, float]:
        told.append(outcome)
        return {client: -float(client) for client in outcome.updates}

    selective = Selective(
        aggregation_of(one), SELECTORS.create("shapley", warm_up=1), clients_per_round=3, contribution=contribution
    )
    strategy = HonestButCurious(selective, heard.append)
    arrays = to_record(one.model().state_dict())
    grid = one.grid()
    rounds = list(federate(strategy, grid, arrays, rounds=3, train_config=one.plan.to_config()))
    assert len(told) == 3
    for outcome in told:
        overheard = {o.client: o for o in heard if o.round == outcome.round}
        assert set(outcome.updates) == set(overheard) == set(rounds[outcome.round].clients)
        assert outcome.losses == {}  # it does not declare that it needs them
        for client, update in outcome.updates.items():
            assert update.examples == overheard[client].examples == len(one.shard(client))
            assert all(update.received[name].equal(values) for name, values in overheard[client].received.items())
            assert all(update.sent[name].equal(values) for name, values in overheard[client].sent.items())
    assert selective.state is not None
    assert selective.state["means"] == {client: -float(client) for outcome in told for client in outcome.updates}
    assert selective.selection.values == {client: -float(client) for client in rounds[-1].clients}


def test_who_needs_values_and_gets_none_is_refused_before_training() -> None:
    with pytest.raises(FedsimError, match="needs values of clients"):
        Selective(aggregation_of(experiment()), SELECTORS.create("greedyfed"))


def test_oort_is_told_the_squared_loss_of_each_example_at_the_weights_sent(tmp_path: Path) -> None:
    one = experiment("oort", rounds=1)
    run(one, tmp_path / "run")
    model = one.model().eval()
    for record in lines(tmp_path / "run" / "clients.jsonl"):
        shard = one.shard(record["client"])
        inputs = training.normalised(shard.images, one.data.mean, one.data.std)
        with torch.no_grad():
            losses = torch.nn.functional.cross_entropy(model(inputs), shard.labels, reduction="none")
        assert record["reported"]["square-loss"] == pytest.approx(float((losses**2).mean()), rel=1e-5)
        assert record["duration"] == one.duration(record["client"], 1)


def test_durations_are_the_devices_own() -> None:
    """Alike devices differ by their examples alone; and nothing but seed, client and round decides the rest."""
    still = {"spread": 0.0, "network_spread": 0.0, "jitter": 0.0}

    def alike(**training: object) -> Experiment:
        return Experiment.of({"data": DATA, "durations": still, "training": training})

    sending = 2 * sum(t.numel() * t.element_size() for t in alike().model().state_dict().values()) / 1e6
    for client, size in enumerate(alike().shards.sizes.tolist()):
        assert alike(local_epochs=3).duration(client) == pytest.approx(sending + 3 * size / 500)
        assert alike(local_steps=4, batch_size=8).duration(client, 5) == pytest.approx(sending + 32 / 500)
    drawn = experiment()
    assert drawn.duration(3, 1) == experiment().duration(3, 1) != drawn.duration(3, 2)
    assert len({drawn.duration(client) for client in range(10)}) == 10


def test_the_report_draws_the_maverick_and_names_the_price(tmp_path: Path) -> None:
    folder = run(experiment("fedemd", rounds=1), tmp_path / "run").folder
    page = (folder / "report.html").read_text()
    assert "Client 9 has 100\N{NO-BREAK SPACE}% of the class Trouser." in page
    labels = experiment().data.train.labels
    drawn = re.findall(r"<title>client (\d+), ([^:]+): (\d+) \(", page)
    counts = {(int(client), name): int(count) for client, name, count in drawn}
    assert sum(counts.values()) == len(labels) == 300
    assert counts[9, "Trouser"] == int((labels == 1).sum())
    assert len(re.findall(r'class="cell owned"', page)) == 1
    assert "histogram of labels" in page
    assert "number of examples" not in page.split('id="selector"')[1].split("</section>")[0]
    again = write_report(folder).read_text()
    assert again == page


def test_uniform_selection_costs_nothing(tmp_path: Path) -> None:
    page = (run(experiment(rounds=1), tmp_path / "run").folder / "report.html").read_text()
    assert "chooses without knowing anything" in page
