"""Differentially private SGD against a loop over the examples, and against opacus."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import RecordDict
from opacus.accountants import RDPAccountant
from torch import Tensor, nn
from torch.nn import functional

from clients.defences import DEFENCES, Memory, Site
from clients.gradients import gradients as plain
from experiments import Experiment, run
from experiments.run_folder import RunFolder
from fedsim.data import load
from fedsim.errors import FedsimError
from fedsim.models import build


def site(round: int = 1) -> Site:
    return Site(seed=0, client=3, round=round, position=0, kind="model", memory=Memory(RecordDict(), "defence-0"))


def batch(size: int) -> tuple[Tensor, Tensor]:
    data = load("fashion_mnist_small").train.subset(torch.arange(size))
    return data.images.float() / 255, data.labels


def network(name: str = "cnn") -> nn.Module:
    return build(name, (1, 28, 28), 10, seed=1).train()


def gradient(
    size: int, *, examples: int = 100, at: Site | None = None, **parameters: Any
) -> tuple[list[Tensor], Tensor]:
    rule = DEFENCES.create("dp_sgd", **parameters).step(at or site())  # type: ignore[attr-defined]
    return rule(network(), *batch(size), examples=examples, loss=functional.cross_entropy)  # type: ignore[no-any-return]


def true_gradient(model: nn.Module, inputs: Tensor, labels: Tensor) -> list[Tensor]:
    found, _ = plain(model, inputs, labels, examples=100, loss=functional.cross_entropy)
    return [g for g in found if g is not None]


@pytest.mark.parametrize("size", [1, 6])
def test_without_clipping_and_noise_it_is_the_plain_gradient(size: int) -> None:
    found, value = gradient(size, norm=1e9, noise_multiplier=0.0)
    expected, loss = plain(network(), *batch(size), examples=100, loss=functional.cross_entropy)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(value, loss)


@pytest.mark.parametrize("at_once", [64, 4, 1])
def test_each_example_is_clipped_as_in_a_loop(at_once: int) -> None:
    inputs, labels = batch(6)
    each = [true_gradient(network(), inputs[i : i + 1], labels[i : i + 1]) for i in range(6)]
    norms = [float(torch.cat([g.flatten() for g in one]).norm()) for one in each]
    norm = sorted(norms)[3]  # three are shortened
    found, _ = gradient(6, norm=norm, noise_multiplier=0.0, at_once=at_once)
    for position, one in enumerate(found):
        mean = sum(g[position] * min(1.0, norm / size) for g, size in zip(each, norms, strict=True)) / 6
        torch.testing.assert_close(one, mean, rtol=1e-4, atol=1e-7)


def test_one_example_more_moves_the_sum_by_no_more_than_the_norm() -> None:
    """The sensitivity that the noise is made for."""
    large, small = (gradient(size, norm=0.1, noise_multiplier=0.0)[0] for size in (6, 5))
    moved = torch.cat([(6 * one - 5 * other).flatten() for one, other in zip(large, small, strict=True)])
    assert float(moved.norm()) == pytest.approx(0.1, rel=1e-3)


def test_the_noise_has_the_deviation_that_it_should() -> None:
    noisy, _ = gradient(4, norm=0.5, noise_multiplier=2.0)
    still, _ = gradient(4, norm=0.5, noise_multiplier=0.0)
    noise = torch.cat([(one - other).flatten() for one, other in zip(noisy, still, strict=True)])
    assert len(noise) > 5_000
    assert float(noise.std()) == pytest.approx(2.0 * 0.5 / 4, rel=0.05)
    assert float(noise.mean()) == pytest.approx(0, abs=5 * 0.25 / math.sqrt(len(noise)))


def test_epsilon_is_that_of_opacus_over_all_steps_and_rounds() -> None:
    here = site()
    for size in (8, 8, 3, 8, 3):  # the last batch of a pass is smaller
        gradient(size, examples=19, at=here, norm=1.0, noise_multiplier=1.3)
    accountant = RDPAccountant()
    for size in (8, 8, 3, 8, 3):
        accountant.step(noise_multiplier=1.3, sample_rate=size / 19)
    said = DEFENCES.create("dp_sgd", norm=1.0, noise_multiplier=1.3, delta=1e-4).report(here)  # type: ignore[attr-defined]
    assert said["dp-epsilon"] == pytest.approx(accountant.get_epsilon(delta=1e-4), rel=1e-9)
    assert said["dp-delta"] == 1e-4


def test_the_whole_shard_at_once_is_the_gaussian_mechanism() -> None:
    """Rényi divergence a / (2 sigma^2) a step, turned into epsilon by the textbook's conversion, is a bound."""
    here = site()
    for _ in range(10):
        gradient(2, examples=2, at=here, norm=1.0, noise_multiplier=4.0)
    said = DEFENCES.create("dp_sgd", norm=1.0, noise_multiplier=4.0).report(here)["dp-epsilon"]  # type: ignore[attr-defined]
    textbook = min(10 * a / 32 + math.log(1e5) / (a - 1) for a in range(2, 64))
    assert 0.7 * textbook < said <= textbook


def test_without_noise_nothing_is_private() -> None:
    here = site()
    gradient(2, at=here, norm=1.0, noise_multiplier=0.0)
    assert DEFENCES.create("dp_sgd", norm=1.0, noise_multiplier=0.0).report(here)["dp-epsilon"] == math.inf  # type: ignore[attr-defined]


TABLES: dict[str, Any] = {
    "data": {"name": "fashion_mnist_small", "train_size": 120, "test_size": 50, "clients": 4},
    "model": {"name": "lenet"},
    "training": {"rounds": 3, "batch_size": 10, "learning_rate": 0.05},
    "selection": {"clients_per_round": 3},
    "defences": [{"name": "dp_sgd", "norm": 1.0, "noise_multiplier": 1.0}],
}


@pytest.mark.parametrize("algorithm", ["fedavg", "fedsgd"])
def test_each_clients_epsilon_stands_in_the_books_and_grows_with_its_rounds(tmp_path: Path, algorithm: str) -> None:
    one = Experiment.of(TABLES | {"training": TABLES["training"] | {"algorithm": algorithm}})
    result = run(one, tmp_path / "run")
    steps: dict[int, int] = {}
    for record in RunFolder.open(result.folder).read_clients():
        client = record["client"]
        steps[client] = steps.get(client, 0) + (3 if algorithm == "fedavg" else 1)
        accountant = RDPAccountant()
        for _ in range(steps[client]):
            accountant.step(noise_multiplier=1.0, sample_rate=10 / 30)
        assert record["reported"]["dp-epsilon"] == pytest.approx(accountant.get_epsilon(delta=1e-5))
    assert len(set(steps.values())) > 1
    two = Experiment.of(one.config.model_dump() | {"engine": {"workers": 2}})
    again = run(two, tmp_path / "again").final_arrays
    assert all(torch.equal(result.final_arrays[name], again[name]) for name in again)


def test_batch_norm_is_refused_before_the_run_and_by_any_app(tmp_path: Path) -> None:
    tables = TABLES | {"model": {"name": "convnet"}, "data": TABLES["data"] | {"name": "fashion_mnist_small"}}
    with pytest.raises(FedsimError, match=r"dp_sgd: model = '.*': is batch norm.*training.mode = \"eval\""):
        run(Experiment.of(tables), tmp_path / "run")
    Experiment.of(tables | {"training": TABLES["training"] | {"mode": "eval"}}).check()
    rule = DEFENCES.create("dp_sgd", norm=1.0, noise_multiplier=1.0).step(site())  # type: ignore[attr-defined]
    with pytest.raises(FedsimError, match="is batch norm"):
        rule(network("convnet"), *batch(2), examples=2, loss=functional.cross_entropy)


def test_two_rules_for_one_step_are_refused() -> None:
    twice = Experiment.of(TABLES | {"defences": TABLES["defences"] * 2})
    with pytest.raises(FedsimError, match=r"\['DPSGD', 'DPSGD'\].*Keep one"):
        twice.check()
