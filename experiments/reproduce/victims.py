"""Attacks on single gradients of fresh networks: what the reproductions share.

Each victim has a network with weights of its own and one batch of test images. Results are written down
as they come, one JSON line a victim, and a run that was broken off goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any, Literal

import torch
from rich.console import Console
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from adversary import ATTACKS, Attack
from adversary.campaign import Campaign
from experiments.report.pictures import strip
from experiments.scoring import score
from fedsim import models
from fedsim.data import DataSet, load, normalised
from fedsim.protocol import Knowledge, Observation, TrainingPlan

CONSOLE = Console(stderr=True)


@dataclass(frozen=True)
class Task:
    """An attack on one victim.

    Attributes:
        name: what the results are called.
        attack: a registered name.
        parameters: of the attack.
        model: of the victim.
        model_parameters: of the model.
        victim: its number; the seed of its weights.
        images: positions of its images in the test split.
        normalise: whether the victim normalises by the data set's statistics.
        precision: of the gradient; float64 is a client that computes in double precision.
    """

    name: str
    attack: str
    parameters: dict[str, Any]
    model: str
    model_parameters: dict[str, Any]
    victim: int
    images: tuple[int, ...]
    normalise: bool
    precision: Literal["float32", "float64"] = "float32"

    def key(self) -> str:
        """The name under which results are kept."""
        return f"{self.name}-{self.victim}"


Run = Callable[[Task], tuple[dict[str, Any], Tensor, Tensor]]
"""Attacks one victim, as ``attack`` does."""


def data_set(normalise: bool) -> DataSet:
    """CIFAR-10 from the store, with the training split's statistics or none."""
    return load("cifar10", normalise=normalise)


def observe(task: Task, data: DataSet) -> tuple[Observation, Knowledge, Tensor, Tensor]:
    """One gradient of a fresh network in evaluation mode, and the truth: images in [0, 1] and labels."""
    batch = data.test.subset(torch.tensor(task.images))
    make = models.builder(task.model, data.input_shape, data.classes, seed=task.victim, **task.model_parameters)
    knowledge = Knowledge(make, data.input_shape, data.classes, data.mean, data.std)
    network = make()
    inputs, labels = normalised(batch.images, data.mean, data.std), batch.labels
    if task.precision == "float64":
        inputs = knowledge.normalise(batch.images.double() / 255)
        network.double()
    gradient = _gradient(network, inputs, labels)
    observation = Observation(
        round=1,
        client=task.victim,
        sent={name: tensor.detach().clone() for name, tensor in network.state_dict().items()},
        received=gradient,
        kind="gradient",
        examples=len(labels),
        plan=TrainingPlan(algorithm="fedsgd", batch_size=None, mode="eval"),
    )
    return observation, knowledge, batch.images.float() / 255, labels


def attack(task: Task) -> tuple[dict[str, Any], Tensor, Tensor]:
    """Run one task: its record, and originals and reconstructions in the order of the originals."""
    return carry_out(task, ATTACKS.create(task.attack, **task.parameters), *observe(task, data_set(task.normalise)))


def carry_out(
    task: Task, attack: Attack, observation: Observation, knowledge: Knowledge, truth: Tensor, labels: Tensor
) -> tuple[dict[str, Any], Tensor, Tensor]:
    """Attack and score one victim."""
    torch.set_num_threads(1)
    found = Campaign(attack, label=task.name).run(observation, knowledge, seed=0)
    scores = score(found.images, found.labels, truth, labels, lpips=False)
    record = {
        "key": task.key(),
        "name": task.name,
        "victim": task.victim,
        "images": list(task.images),
        "attack": task.attack,
        "parameters": task.parameters,
        "model": task.model,
        "model_parameters": task.model_parameters,
        "normalise": task.normalise,
        **scores.record(),
        "loss": found.loss if math.isfinite(found.loss) else None,
        "iterations": found.iterations,
        "seconds": round(found.seconds, 1),
        "stopped_by": found.stopped_by,
    }
    return record, truth, found.images[list(scores.assignment)]


def run_all(
    tasks: Sequence[Task], folder: Path, name: str, workers: int, run: Run = attack, *, partial: bool = False
) -> list[dict[str, Any]]:
    """Run the tasks that have no result yet; all records, in the order of the tasks.

    Results are ``folder/name.jsonl``. The pictures, ``folder/pictures/name*``, stay on the machine that made them:
    CIFAR-10 states no licence under which they could be passed on. What has a result is not done again for its picture.
    With ``partial`` nothing is run, and the records are those that there are.
    """
    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    lines, pictures = folder / f"{name}.jsonl", folder / "pictures" / f"{name}.safetensors"
    records = {r["key"]: r for r in map(json.loads, lines.read_text().splitlines())} if lines.exists() else {}
    kept = load_file(pictures) if pictures.exists() else {}
    if partial:
        return [records[task.key()] for task in tasks if task.key() in records]
    left = [task for task in tasks if task.key() not in records]
    for record, truth, found in _results(left, workers, run):
        kept |= {f"{record['key']}/truth": _bytes(truth), f"{record['key']}/found": _bytes(found)}
        save_file(kept, pictures)
        with lines.open("a") as file:
            file.write(json.dumps(record) + "\n")
        records[record["key"]] = record
        CONSOLE.print(
            f"{record['key']}: PSNR {record['psnr']:.1f} dB, MSE {record['mse']:.1e}, "
            f"labels {record['label_accuracy']:.0%}, {record['iterations']} iterations, {record['seconds']:.0f} s, "
            f"stopped by {record['stopped_by']}"
        )
    for task_name in dict.fromkeys(task.name for task in tasks):
        keys = [task.key() for task in tasks if task.name == task_name and f"{task.key()}/found" in kept]
        if not keys:
            continue
        truths, founds = (torch.cat([kept[f"{key}/{what}"] for key in keys]) / 255 for what in ("truth", "found"))
        (folder / "pictures" / f"{name}-{task_name}.png").write_bytes(strip(truths, founds, columns=10))
    return [records[task.key()] for task in tasks]


def table(records: Iterable[dict[str, Any]]) -> str:
    """A Markdown table with a row a victim."""
    head = "| victim | test images | PSNR, dB | SSIM | MSE | grey, dB | labels | iterations | seconds | stopped by |"
    rows = [
        f"| {r['victim']} | {_range(r['images'])} | {r['psnr']:.1f} | {r['ssim']:.3f} | {r['mse']:.1e} "
        f"| {r['baseline_psnr']:.1f} | {r['label_accuracy']:.0%} | {r['iterations']} | {r['seconds']:.0f} "
        f"| {r['stopped_by']} |"
        for r in records
    ]
    return "\n".join([head, "|" + " --- |" * 10, *rows])


def summary(records: Sequence[dict[str, Any]]) -> str:
    """Medians over all victims, failures included."""
    return (
        f"{len(records)} victims: median PSNR {median(r['psnr'] for r in records):.1f} dB "
        f"(least {min(r['psnr'] for r in records):.1f}, most {max(r['psnr'] for r in records):.1f}; "
        f"a uniform grey scores {median(r['baseline_psnr'] for r in records):.1f}), "
        f"median SSIM {median(r['ssim'] for r in records):.3f}, "
        f"MSE below 1e-3 on {sum(r['mse'] < 1e-3 for r in records)}, "
        f"labels right on {sum(r['label_accuracy'] == 1 for r in records)}, "
        f"{sum(r['seconds'] for r in records) / len(records):.0f} s a victim."
    )


def arguments(description: str, configure: Callable[[argparse.ArgumentParser], None]) -> argparse.Namespace:
    """The command line of a reproduction: ``--out``, ``--workers`` and its own options."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--out", type=Path, default=Path("docs/results"), help="folder of the results")
    parser.add_argument("--workers", type=int, default=1, help="victims attacked at a time, one thread each")
    configure(parser)
    return parser.parse_args()


def _results(tasks: Sequence[Task], workers: int, run: Run) -> Iterable[tuple[dict[str, Any], Tensor, Tensor]]:
    if workers == 1:
        yield from map(run, tasks)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        for future in as_completed([pool.submit(run, task) for task in tasks]):
            yield future.result()


def _bytes(images: Tensor) -> Tensor:
    return (images.clamp(0, 1) * 255).round().to(torch.uint8)


def _gradient(network: nn.Module, inputs: Tensor, labels: Tensor) -> dict[str, Tensor]:
    names, parameters = zip(*network.named_parameters(), strict=True)
    gradients = torch.autograd.grad(functional.cross_entropy(network(inputs), labels), parameters)
    return dict(zip(names, gradients, strict=True))


def _range(images: Sequence[int]) -> str:
    return str(images[0]) if len(images) == 1 else f"{images[0]}-{images[-1]}"
