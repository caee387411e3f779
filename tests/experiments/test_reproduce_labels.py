"""The measurement of label recovery: repeatable cell by cell, and its statistics by a second implementation."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from experiments.reproduce.labels import Cell, attack, cells, observe, shard, trained
from experiments.reproduce.labels_page import write_page
from fedsim.data import load

DATA = load("fashion_mnist_small")
RULES = ("class_features", "counts", "rlu", "ilrg", "llg", "bias_corrected", "yin", "analytic", "rlg", "ggl", "uniform")


def test_a_cell_measured_again_is_the_same_whatever_ran_before() -> None:
    networks = [trained("cnn", 2, number, DATA) for number in range(2)]
    cell = Cell("cnn", 2, 8, 2, 4)
    first = attack(cell, networks, 3, DATA)
    attack(Cell("cnn", 2, 4, 0, 4), networks, 2, DATA)
    assert attack(cell, networks, 3, DATA) == first
    assert len(first["right"]["counts"]) == 3


def test_one_sample_is_always_read_and_guessing_is_not() -> None:
    record = attack(Cell("cnn", 0, 1, 0, 1), [trained("cnn", 0, 0, DATA)], 10, DATA)
    assert record["right"]["idlg"] == record["right"]["counts"] == [1] * 10
    assert record["present"]["idlg"] == [1.0] * 10
    assert sum(record["right"]["uniform"]) < 10


def test_a_victims_update_is_that_of_its_own_images_and_leaves_the_network() -> None:
    network = trained("cnn", 0, 0, DATA)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    cell = Cell("cnn", 0, 8, 1, 4)
    images = shard(cell, 3, DATA)
    assert len(images) == 8
    observation = observe(cell, 3, network, images, DATA)
    assert observation.plan is not None
    assert observation.plan.steps(observation.examples) == 2
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())
    assert any(not torch.equal(before[name], tensor) for name, tensor in observation.received.items())
    assert not torch.equal(shard(cell, 4, DATA).images, images.images)


def test_the_page_gives_means_with_students_interval(tmp_path: Path) -> None:
    draws = np.random.default_rng(0)
    records, expected = [], {}
    for cell in cells():
        right = {rule: draws.integers(0, cell.examples + 1, 5).tolist() for rule in RULES}
        records.append({"key": cell.key(), **asdict(cell), "victims": 5, "right": right, "present": right})
        if (cell.training, cell.examples, cell.epochs) == (50, 16, 0):
            expected[cell.model] = [count / 16 for count in right["counts"]]
    write_page(records, tmp_path)
    page = (tmp_path / "labels.md").read_text()
    section = page.split("### one gradient, after 50 steps")[1].split("###")[0]
    row = next(line for line in section.splitlines() if line.startswith("| counts |")).replace("*", "").split("|")
    scores = np.concatenate(list(expected.values()))
    low, high = stats.t.interval(0.95, len(scores) - 1, scores.mean(), stats.sem(scores))
    mean, half = (float(part) for part in row[2 + (1, 2, 4, 8, 16, 32, 64, 128).index(16)].split("±"))
    assert mean == pytest.approx(100 * scores.mean(), abs=0.51)
    assert half == pytest.approx(100 * (high - low) / 2, abs=0.51)
    assert (tmp_path / "images" / "labels-0.png").stat().st_size > 10_000
