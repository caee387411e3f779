"""Accuracy of label recovery on CIFAR-10: ``python -m experiments.reproduce.labels --out docs/results``.

Rules over batch size, local epochs and training, on ``cnn``, ``convnet`` and ``lenet``. A victim is a client with
its own class proportions, drawn from Dirichlet(0.5), and its own test images; it computes what real clients do.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn

from adversary.labels import LABEL_RULES, Evidence
from adversary.network import build
from clients.batches import batches
from clients.training import gradient, local_steps
from experiments.reproduce.labels_page import READING, write_page
from experiments.reproduce.updates import learn
from fedsim import models, seeding
from fedsim.data import DataSet, Images, load
from fedsim.protocol import Knowledge, Observation, TrainingPlan

NAME = "labels"
MODELS: dict[str, dict[str, Any]] = {"cnn": {}, "convnet": {"width": 32}, "lenet": {}}
"""Models with their parameters; ``convnet`` at half its width, for the sake of time."""
TRAINING = (0, 50, 1000)
"""Steps of Adam at 1e-3 on batches of 64 training images before the round attacked."""
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128)
"""Examples of a single gradient."""
SHARDS = ((32, 8), (128, 32))
"""Examples and mini-batch size of a FedAvg client."""
EPOCHS = (1, 2, 4, 8)
LEARNING_RATE = 0.01
CONCENTRATION = 0.5
VICTIMS = 20
NETWORKS = 2
"""Networks of each model, with weights and training of their own; victims take turns."""
ONE_LABEL = ("idlg", "inner_products")
LEFT_OUT = ("given", "optimised")

CONSOLE = Console(stderr=True)


@dataclass(frozen=True)
class Cell:
    """One setting, in which many victims are attacked.

    Attributes:
        model: of all of them.
        training: steps that the model has learned for.
        examples: of each victim.
        epochs: local epochs; 0 for a single gradient over all examples.
        batch: examples a local step.
    """

    model: str
    training: int
    examples: int
    epochs: int
    batch: int

    def key(self) -> str:
        """The name under which results are kept."""
        return f"{self.model}-{self.training}-{self.examples}-{self.epochs}"

    def plan(self) -> TrainingPlan:
        """What the server orders."""
        if self.epochs == 0:
            return TrainingPlan(algorithm="fedsgd", batch_size=None)
        return TrainingPlan(batch_size=self.batch, local_epochs=self.epochs, learning_rate=LEARNING_RATE)


def cells() -> list[Cell]:
    """All settings, those that share networks next to each other."""
    return [
        cell
        for training in TRAINING
        for model in MODELS
        for cell in (
            *(Cell(model, training, size, 0, size) for size in BATCHES),
            *(Cell(model, training, size, epochs, batch) for size, batch in SHARDS for epochs in EPOCHS),
        )
    ]


def trained(model: str, training: int, number: int, data: DataSet) -> nn.Module:
    """A network after some steps of Adam on training images."""
    network = models.build(model, data.input_shape, data.classes, seed=number, **MODELS[model])
    learn(network, training, data, seeding.generator(number, "reproduce", NAME, "training", model))
    return network


def shard(cell: Cell, victim: int, data: DataSet) -> Images:
    """A victim's test images: class proportions from a Dirichlet distribution, then images of each class."""
    draws = seeding.numpy_generator(victim, "reproduce", NAME, "shard", cell.examples)
    counts = draws.multinomial(cell.examples, draws.dirichlet([CONCENTRATION] * data.classes))
    pools = [(data.test.labels == label).nonzero().flatten().numpy() for label in range(data.classes)]
    chosen = [draws.choice(pool, count, replace=False) for pool, count in zip(pools, counts, strict=True)]
    return data.test.subset(torch.cat([torch.from_numpy(positions) for positions in chosen]))


def observe(cell: Cell, victim: int, network: nn.Module, images: Images, data: DataSet) -> Observation:
    """What the server overhears of the victim; the network is left as it was."""
    plan, sent = cell.plan(), _state(network)
    if cell.epochs == 0:
        received, _ = gradient(network, images, (data.mean, data.std), torch.arange(len(images)), plan)
    else:
        schedule = batches(plan, len(images), seed=0, client=victim, round=1)
        local_steps(network, images, (data.mean, data.std), schedule, plan, round=1)
        received = _state(network)
    network.load_state_dict(sent)
    return Observation(1, victim, sent, received, "model" if cell.epochs else "gradient", len(images), plan)


def attack(cell: Cell, networks: list[nn.Module], victims: int, data: DataSet) -> dict[str, Any]:
    """The record of a cell: labels found right, and the agreement of the classes found, of each victim by rule.

    The first is ``sum_c min(n_c, found_c)``, the second the classes in both over those in either.
    """
    names = [name for name in LABEL_RULES if name not in LEFT_OUT and (cell.examples == 1 or name not in ONE_LABEL)]
    right: dict[str, list[int]] = {name: [] for name in [*names, "uniform"]}
    present: dict[str, list[float]] = {name: [] for name in right}
    for victim in range(victims):
        network = networks[victim % len(networks)]
        images = shard(cell, victim, data)
        observation = observe(cell, victim, network, images, data)
        make = models.builder(cell.model, data.input_shape, data.classes, **MODELS[cell.model])
        knowledge = Knowledge(make, data.input_shape, data.classes, data.mean, data.std)
        built = build(knowledge, cell.plan().mode, "cpu")
        for name in names:
            draws = seeding.generator(victim, "attack", "labels")
            found = LABEL_RULES[name](Evidence.of(observation, knowledge, built, draws))
            _score(name, found, images.labels, data.classes, right, present)
        uniform = torch.arange(cell.examples) % data.classes
        _score("uniform", uniform, images.labels, data.classes, right, present)
    return {"key": cell.key(), **asdict(cell), "victims": victims, "right": right, "present": present}


def _score(
    name: str,
    found: Tensor,
    truth: Tensor,
    classes: int,
    right: dict[str, list[int]],
    present: dict[str, list[float]],
) -> None:
    n, m = (torch.bincount(labels, minlength=classes) for labels in (truth, found))
    right[name].append(int(torch.minimum(n, m).sum()))
    both, either = ((n > 0) & (m > 0)).sum(), ((n > 0) | (m > 0)).sum()
    present[name].append(round(float(both / either), 3))


def _state(network: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}


def run(folder: Path, victims: int) -> list[dict[str, Any]]:
    """Run the cells that have no result yet; all records, in the order of the cells."""
    lines = folder / f"{NAME}.jsonl"
    folder.mkdir(parents=True, exist_ok=True)
    found = [json.loads(line) for line in lines.read_text().splitlines()] if lines.exists() else []
    records = {record["key"]: record for record in found if record["victims"] == victims}
    left = [cell for cell in cells() if cell.key() not in records]
    for cell, record in track(_records(left, victims), "labels", len(left), console=CONSOLE):
        with lines.open("a") as file:
            file.write(json.dumps(record) + "\n")
        records[cell.key()] = record
    return [records[cell.key()] for cell in cells()]


def _records(left: list[Cell], victims: int) -> Iterator[tuple[Cell, dict[str, Any]]]:
    data = load("cifar10")
    for model, training in dict.fromkeys((cell.model, cell.training) for cell in left):
        networks = [trained(model, training, number, data) for number in range(NETWORKS)]
        for cell in left:
            if (cell.model, cell.training) == (model, training):
                yield cell, attack(cell, networks, victims, data)


def main() -> None:
    """Run what is missing, then write tables and figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("docs/results"), help="folder of the results")
    parser.add_argument("--victims", type=int, default=VICTIMS, help="victims a cell")
    options = parser.parse_args()
    torch.set_num_threads(1)
    records = run(options.out, options.victims)
    write_page(records, options.out, READING if options.victims == VICTIMS else "")


if __name__ == "__main__":
    main()
