"""Diffusion models trained by configuration alone: engines, transcripts, defences and resume of classifiers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from experiments import Experiment, checkpoint, run
from experiments.campaigns import campaigns
from experiments.checkpoint import Checkpoint
from fedsim import seeding
from fedsim.arrays import to_record
from fedsim.diffusion import SCHEDULES, Objective
from fedsim.diffusion import build as build_network
from fedsim.errors import FedsimError
from fedsim.transcript import Transcript
from server import federate

pytest.importorskip("diffusers", reason="NOT TESTED: diffusion runs. Run: pip install fedsim[diffusion]")

DATA = {"name": "fashion_mnist_small", "train_size": 24, "test_size": 8, "clients": 3}
TASK = {"name": "diffusion", "schedule": {"name": "linear", "steps": 100}, "count": 2, "sampling_steps": 3}
MODEL = {"name": "unet", "widths": [8], "groups": 4, "attention": False}
TRAINING = {"rounds": 2, "batch_size": 3, "learning_rate": 0.05}


def experiment(**tables: Any) -> Experiment:
    return Experiment.of({"data": DATA, "task": TASK, "model": MODEL, "training": TRAINING, **tables})


def checked(one: Experiment) -> None:
    one.check()
    campaigns(one)


def raw(arrays: dict[str, torch.Tensor]) -> dict[str, bytes]:
    return {name: tensor.numpy().tobytes() for name, tensor in arrays.items()}


def without_times(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in record.items() if key != "seconds"} for record in records]


def samples(folder: Path) -> bytes:
    return (folder / "pictures" / "samples.png").read_bytes()


def test_workers_do_not_change_a_byte_and_seeds_and_noise_do(tmp_path: Path) -> None:
    one = run(experiment(), tmp_path / "one")
    two = run(experiment(engine={"workers": 2}), tmp_path / "two")
    assert raw(one.final_arrays) == raw(two.final_arrays)
    assert without_times(one.metrics) == without_times(two.metrics)
    assert samples(one.folder) == samples(two.folder)
    shared = run(experiment(task=TASK | {"noise": "shared"}), tmp_path / "shared")
    other = run(experiment(seed=1), tmp_path / "other")
    assert len({str(raw(result.final_arrays)) for result in (one, shared, other)}) == 3
    losses = [record["test_loss"] for record in one.metrics]
    assert losses[-1] < 0.7 * losses[0]
    assert not any("accuracy" in key for record in one.metrics for key in record)
    page = one.report.read_text().split("</style>")[1]
    assert "Loss on held-out images" in page
    assert "accuracy" not in page.lower()
    assert "data:image/png" in page
    with Image.open(one.folder / "pictures" / "samples.png") as picture:
        assert picture.size == (2 * 28 + 1, 28)


@pytest.mark.parametrize("noise", ["private", "shared"])
def test_a_gradient_sent_is_that_of_the_objective(tmp_path: Path, noise: str) -> None:
    """From the seed alone: who knows it can redo what a client computed."""
    training = {"algorithm": "fedsgd", "rounds": 2, "batch_size": "full", "learning_rate": 0.05}
    one = experiment(task=TASK | {"noise": noise}, training=training, wiretap={"record": True})
    folder = run(one, tmp_path / "run").folder
    network = build_network("unet", one.data.input_shape, widths=(8,), groups=4, attention=False)
    objective = Objective(SCHEDULES.create("linear", steps=100))
    for client in (0, 2):
        seen = Transcript.open(folder / "transcript").of_client(client)[1]
        assert seen.plan is not None
        assert seen.plan.loss == "denoising"
        network.load_state_dict({name.removeprefix("network."): tensor for name, tensor in seen.sent.items()})
        x_0 = one.shard(client).images[one.batches(client, 2)[0]].float() / 255 * 2 - 1
        whose = () if noise == "shared" else ("client", client)
        generator = seeding.generator(0, *whose, "round", 2, "step", 0, "noise")
        drawn = [(torch.randn(x_0.shape[1:], generator=generator), torch.randint(100, (), generator=generator))
                 for _ in x_0]  # fmt: skip
        loss = objective(network, x_0, torch.stack([n for n, _ in drawn]), torch.stack([t for _, t in drawn]))
        expected = torch.autograd.grad(loss, list(network.parameters()))
        for (name, _), gradient in zip(network.named_parameters(), expected, strict=True):
            torch.testing.assert_close(seen.received[f"network.{name}"], gradient, rtol=1e-4, atol=1e-6)


def test_a_run_that_was_cut_off_ends_in_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run(experiment(), tmp_path / "whole")
    write = checkpoint.write

    def cut(folder: Path, state: Checkpoint) -> None:
        write(folder, state)
        if state.round == 1:
            raise InterruptedError

    monkeypatch.setattr(checkpoint, "write", cut)
    with pytest.raises(InterruptedError):
        run(experiment(), tmp_path / "cut")
    monkeypatch.setattr(checkpoint, "write", write)
    resumed = run(experiment(), tmp_path / "cut", resume=True)
    assert raw(resumed.final_arrays) == raw(whole.final_arrays)
    assert without_times(resumed.metrics) == without_times(whole.metrics)
    assert samples(resumed.folder) == samples(whole.folder)


def test_defences_inside_training_take_the_batch_apart(tmp_path: Path) -> None:
    """DP-SGD that neither clips nor adds noise is SGD, each example with its own noise and step."""
    pytest.importorskip("opacus")
    training = TRAINING | {"rounds": 1}
    plain = run(experiment(training=training), tmp_path / "plain").final_arrays
    dp = {"name": "dp_sgd", "norm": 1e6, "noise_multiplier": 0.0}
    found = run(experiment(training=training, defences=[dp]), tmp_path / "dp").final_arrays
    for name, tensor in plain.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-3, atol=1e-5)


def test_soteria_says_that_it_finds_no_representation_of_the_image(tmp_path: Path) -> None:
    """The last linear layer of a UNet sees the step alone."""
    with pytest.raises(FedsimError, match=r"soteria.*depends on the image"):
        run(experiment(defences=[{"name": "soteria", "share": 0.5}]), tmp_path / "run")


def test_a_client_refuses_a_plan_for_another_task() -> None:
    one = Experiment.of({"data": DATA, "model": {"name": "lenet"}, "training": TRAINING})
    order = replace(one.plan, loss="denoising").to_config()
    rounds = federate(one.strategy(), one.grid(), to_record(one.model().state_dict()), rounds=1, train_config=order)
    with pytest.raises(FedsimError, match=r"the same \[task\]"):
        list(rounds)


def test_selection_and_contribution_go_by_the_loss(tmp_path: Path) -> None:
    data = DATA | {"test_size": 12, "validation_size": 4}
    one = experiment(data=data, training=TRAINING | {"rounds": 1}, contribution={"name": "exact"},
                     selection={"name": "oort", "clients_per_round": 2})  # fmt: skip
    found = run(one, tmp_path / "run").metrics[-1]
    assert found["utility_before"] < found["utility_after"] < 0  # minus the loss


@pytest.mark.parametrize(
    ("tables", "words"),
    [
        ({"task": {"name": "difusion"}}, ["difusion", "'diffusion'"]),
        ({"task": TASK | {"nose": "shared"}}, ["nose", "'noise'"]),
        ({"model": {"name": "cnn"}}, ["cnn", "unet"]),
        ({"model": MODEL | {"widths": [8, 8, 8, 8]}}, ["widths", "28x28", "3 widths or fewer"]),
        ({"model": MODEL | {"classes": 10}}, ["model.classes = 10", "task.conditional = true"]),
        ({"selection": {"name": "tifl"}}, ["tifl", "goes by accuracy", "tells loss"]),
        ({"data": DATA | {"validation_size": 4}, "contribution": {"metric": "accuracy"}}, ["contribution.metric"]),
        ({"attacks": [{"name": "agic"}]}, ["agic", "cross_entropy", "denoising"]),
        ({"attacks": [{"name": "rgap"}]}, ["rgap", "cross_entropy", "denoising"]),
    ],
)
def test_what_cannot_work_is_found_before_it_starts(tables: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(FedsimError) as error:
        checked(experiment(**tables))
    for word in words:
        assert word in str(error.value)


def test_what_the_model_draws_is_judged_in_the_first_and_last_round_and_those_between(tmp_path: Path) -> None:
    judged = experiment(training=TRAINING | {"rounds": 3, "ema": 0.5}, quality={"samples": 12, "every": 2})
    found = run(judged, tmp_path / "judged")
    rounds = [m["round"] for m in found.metrics if m["test_frechet_distance"] is not None]
    assert rounds == [1, 2, 3]
    assert found.metrics[-1]["test_frechet_distance"] > 0
    assert all(0 <= found.metrics[-1][f"test_{share}"] <= 1 for share in ("precision", "recall"))
    assert "Frechet distance" in found.report.read_text()
    plain = run(experiment(training=TRAINING | {"rounds": 3, "ema": 0.5}), tmp_path / "plain")
    assert raw(plain.final_arrays) == raw(found.final_arrays)
    classifier = {"data": DATA, "model": {"name": "lenet"}, "quality": {}}
    with pytest.raises(FedsimError, match=r"quality.*draws no images"):
        checked(Experiment.of(classifier))
    with pytest.raises(FedsimError, match=r"quality.neighbours.*only 2 images"):
        checked(experiment(data=DATA | {"test_size": 2}, quality={}))
