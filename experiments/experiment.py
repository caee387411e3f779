"""An experiment: a configuration, and the parts it names, made and checked before anything starts."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from flwr.app import Context
from flwr.clientapp import ClientApp
from flwr.clientapp.typing import Mod
from flwr.serverapp import Grid
from torch import Tensor, nn

from clients import Environment, batches, client_app
from clients.defences import DEFENCES, Checking, Defence, defence_mod
from clients.faults import faults_mod
from experiments import config as configuration
from experiments.aggregating import strategy_of
from experiments.hardware import found_device, has_bf16
from experiments.tables import Config, Durations
from fedsim import models
from fedsim.data import DataSet, Images, Shards, load, partition
from fedsim.data.holdout import hold_out
from fedsim.engines import ENGINES
from fedsim.engines.local import can_fork
from fedsim.errors import invalid
from fedsim.protocol import DeclaredDefence, Grant, Knowledge, TrainingPlan
from fedsim.tasks import TASKS, Draws, Generative, Normalisation, Occasion, Task
from server import SELECTORS, Selective
from server.selection import Choosing, Selector


@dataclass(frozen=True)
class Experiment:
    """What a configuration describes; its parts are made when first asked for, and once."""

    config: Config

    def __reduce__(self) -> tuple[type[Experiment], tuple[Config]]:
        """The configuration is all that another process needs: it makes the parts itself."""
        return Experiment, (self.config,)

    @classmethod
    def load(cls, path: Path | str, overrides: Iterable[str] = ()) -> Experiment:
        """From a TOML file, with ``key.of.table=value`` overrides.

        Raises:
            FedsimError: the configuration is wrong; the message names the field.
        """
        return cls(configuration.load(path, overrides))

    @classmethod
    def of(cls, tables: dict[str, Any]) -> Experiment:
        """From the tables of a configuration.

        Raises:
            FedsimError: the configuration is wrong; the message names the field.
        """
        return cls(configuration.check(tables))

    @cached_property
    def data(self) -> DataSet:
        """The data set."""
        table = self.config.data
        return load(
            table.name,
            train_size=table.train_size,
            test_size=table.test_size,
            normalise=table.normalise,
            **table.parameters,
        )

    @cached_property
    def _held_out(self) -> tuple[Images, Images | None]:
        """The test split, and the server's own part of it."""
        size, test = self.config.data.validation_size, self.data.test
        if size is None:
            return test, None
        if size >= len(test):
            raise invalid(
                "data.validation_size",
                size,
                f"the test split has only {len(test)} images, and some must be left to test on",
                f"Use at most {len(test) - 1}",
            )
        rest, own = hold_out(test.labels, size / len(test), self.config.seed)
        return test.subset(rest), test.subset(own)

    @property
    def test(self) -> Images:
        """The images that the global model is tested on."""
        return self._held_out[0]

    @property
    def validation(self) -> Images | None:
        """The images that the server judges updates by, if it has any; none is a client's or is tested on."""
        return self._held_out[1]

    @cached_property
    def shards(self) -> Shards:
        """Positions in the training split of each client's images, int64."""
        table = self.config.data
        return partition(
            self.data.train.labels,
            table.partition.name,
            table.clients,
            classes=self.data.classes,
            seed=self.config.seed,
            **table.partition.parameters,
        )

    @cached_property
    def label_counts(self) -> tuple[int, ...]:
        """Examples of each class, of all clients together; of all there are where clients draw their own."""
        labels = self.data.train.labels
        dealt = labels[torch.cat(list(self.shards))] if self.shards.disjoint else labels
        return tuple(torch.bincount(dealt, minlength=self.data.classes).tolist())

    @cached_property
    def plan(self) -> TrainingPlan:
        """What the server orders."""
        return replace(self.config.training.plan(), loss=self.task.objective)

    @cached_property
    def task(self) -> Task:
        """What is trained."""
        return TASKS.create(self.config.task.name, **self.config.task.parameters)

    @property
    def normalisation(self) -> Normalisation:
        """How images are fed to the network: per-channel mean and standard deviation."""
        return self.task.normalisation(self.data.mean, self.data.std)

    @property
    def device(self) -> torch.device:
        """Where to compute.

        Raises:
            FedsimError: there is no such device here.
        """
        return found_device("device.name", self.config.device.name)

    def shard(self, client: int) -> Images:
        """The images of a client."""
        return self.data.train.subset(self.shards[client])

    def model(self) -> nn.Module:
        """The network at its initial weights, which depend on the seed alone."""
        table = self.config.model
        return self.task.build(
            table.name, self.data.input_shape, self.data.classes, table.parameters, seed=self.config.seed
        )

    @cached_property
    def environment(self) -> Environment:
        """What simulated clients work with."""
        self.shards  # noqa: B018  (dealt out when a worker starts, not in its first round)
        return Environment(
            model=self.model,
            shard=self.shard,
            normalisation=self.normalisation,
            seed=self.config.seed,
            device=str(self.device),
            task=self.task,
        )

    def client_app(self) -> ClientApp:
        """The client side."""
        environment = self.environment

        def environment_of(context: Context) -> Environment:  # noqa: ARG001
            return environment

        return client_app(environment_of, self._mods())

    def _mods(self) -> list[Mod]:
        """What stands between the network and a client's training, outermost first."""
        faults, seed = self.config.faults, self.config.seed
        mods = [] if faults is None else [faults_mod(faults, seed)]
        if self.defences:
            mods.append(defence_mod(self.defences, seed, buffers=models.buffer_names(self.model())))
        return mods

    @cached_property
    def defences(self) -> list[Defence]:
        """The chain of every client."""
        return [DEFENCES.create(table.name, **table.parameters) for table in self.config.defences]

    def grid(self) -> Grid:
        """The engine, over all clients."""
        table = self.config.engine
        given = dict(table.parameters)
        if table.name == "local":  # several threads would wait for each other where Python is most of the work
            given.setdefault("processes", table.workers > 1 and self.device.type == "cpu" and can_fork())
        return ENGINES.create(table.name, self.client_app, self.config.data.clients, workers=table.workers, **given)

    def strategy(self) -> Selective:
        """The aggregation strategy, narrowed to the clients that the selector chooses."""
        return strategy_of(self)

    def selector(self) -> Selector | Choosing:
        """Whom to prefer."""
        table = self.config.selection
        return SELECTORS.create(table.name, **table.parameters)

    def duration(self, client: int, round: int | None = None) -> float:
        """Seconds that a client is simulated to take for a round, or expects to where none is given."""
        devices = (self.config.durations or Durations()).devices()
        examples = int(self.shards.sizes[client])
        if self.plan.algorithm == "fedavg" and self.plan.local_steps is None:
            used = self.plan.local_epochs * examples
        else:
            used = self.plan.steps(examples) * min(self.plan.batches_of(examples), examples)
        return devices.seconds(self.config.seed, client, examples=used, bytes=2 * self._model_bytes, round=round)

    @cached_property
    def _model_bytes(self) -> int:
        return sum(tensor.numel() * tensor.element_size() for tensor in self.model().state_dict().values())

    def batches(self, client: int, round: int) -> list[Tensor]:
        """Positions in a client's shard of the batch of each local step of a round."""
        return batches(self.plan, int(self.shards.sizes[client]), seed=self.config.seed, client=client, round=round)

    def truth(self, client: int, round: int) -> tuple[Tensor, Tensor]:
        """The images a client's update was made of, and their labels; for scoring alone.

        Returns:
            Images in [0, 1], float32 [N, C, H, W], and labels int64 [N]: the batch of a gradient, or the
            whole shard behind a model (of the examples that its local steps reached).
        """
        reached = torch.unique(torch.cat(self.batches(client, round)))
        data = self.shard(client)
        return data.images[reached].float() / 255, data.labels[reached]

    def draws(self, client: int, round: int) -> Draws:
        """The random numbers of the batch of a client's first step in a round, in the order of the batch."""
        first = self.batches(client, round)[0]
        return self.task.draws(Occasion(self.config.seed, client, round), (len(first), *self.data.input_shape))

    def knowledge(self, grants: Iterable[Grant] = (), *, client: int = 0, round: int = 1) -> Knowledge:
        """What the threat model grants an adversary about a client in a round."""
        granted = set(grants)
        draws = self.draws(client, round) if granted & self.task.drawn else Draws()
        return Knowledge(
            model=self.model,
            input_shape=self.data.input_shape,
            classes=self.data.classes,
            mean=self.normalisation[0],
            std=self.normalisation[1],
            labels=self._labels(client, round) if "labels" in granted else None,
            batch_order=tuple(self.batches(client, round)) if "batch_order" in granted else None,
            defences=self._declared() if "defences" in granted else None,
            task=self.task,
            noise=draws.noise if "noise" in granted else None,
            steps=draws.steps if "steps" in granted else None,
        )

    def _labels(self, client: int, round: int) -> Tensor:
        """The labels of a client's update: in the order of its draws, where there are any to match them with."""
        if not self.task.drawn:
            return self.truth(client, round)[1]
        return self.shard(client).labels[self.batches(client, round)[0]]

    def _declared(self) -> tuple[DeclaredDefence, ...]:
        return tuple(
            DeclaredDefence(table.name, DEFENCES.parameters(table.name) | table.parameters)
            for table in self.config.defences
        )

    def check(self) -> None:
        """Find what would fail later: every part is made, every client's batch cut once.

        Raises:
            FedsimError: names the field, its value and the remedy.
        """
        table = self.config
        selected = table.selection.clients_per_round
        if selected is not None and selected > table.data.clients:
            raise invalid(
                "selection.clients_per_round",
                selected,
                f"there are only {table.data.clients} clients",
                f"Use at most {table.data.clients}, or raise data.clients",
            )
        if table.quality is not None and not isinstance(self.task, Generative):
            raise invalid("quality", "a table", f"the task {table.task.name!r} draws no images", "Leave [quality] out")
        if table.quality is not None and len(self.test) <= table.quality.neighbours:
            raise invalid(
                "quality.neighbours",
                table.quality.neighbours,
                f"there are only {len(self.test)} images to test on",
                "Use fewer, or raise data.test_size",
            )
        ENGINES.factory(table.engine.name)
        self._mods()
        self.strategy()
        if table.training.precision == "bf16" and not has_bf16(self.device):
            warnings.warn(
                f'training.precision = "bf16": the {self.device.type} here has no instructions for it and emulates '
                'them: the results are the same, but slower than with "float32".',
                stacklevel=2,
            )
        self.batches(int(self.shards.sizes.argmin()), 1)
        if self.environment.device:
            self.task.check(self.model(), table.model.name, self.data.input_shape, self.data.classes)
        for defence in self.defences:
            if isinstance(defence, Checking):
                defence.check(self.model(), self.plan)
