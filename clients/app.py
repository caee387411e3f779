"""The client side as a Flower ``ClientApp``: it trains, evaluates, and says who it is."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.clientapp.typing import Mod
from torch import nn

from clients import training
from clients.batches import batches
from fedsim.arrays import Decoder, to_record
from fedsim.data import Images
from fedsim.errors import invalid
from fedsim.models import buffer_names, laid_out
from fedsim.protocol import REPORT_KEY, ROUND_KEY, SQUARE_LOSS, Arrays, TrainingPlan
from fedsim.tasks import Normalisation, Occasion, Task


@dataclass(frozen=True)
class Environment:
    """What the machine of a client provides.

    Attributes:
        model: builds the network; called once a worker.
        shard: the data of the client with a number.
        normalisation: per-channel mean and standard deviation.
        seed: of the experiment.
        device: where clients compute.
        share_labels: whether a client reports its label histogram when asked for its profile.
        task: what is trained.
    """

    model: Callable[[], nn.Module]
    shard: Callable[[int], Images]
    normalisation: Normalisation
    seed: int
    device: str = "cpu"
    share_labels: bool = True
    task: Task = training.CLASSIFICATION


def client_app(environment_of: Callable[[Context], Environment], mods: Sequence[Mod] = ()) -> ClientApp:
    """A Flower ``ClientApp`` over an environment.

    Args:
        environment_of: gives the environment of a node; called for every message, so it should cache.
        mods: Flower client mods, such as defences, applied to training in the order given.

    Returns:
        An app that answers ``train`` (with a model, or a gradient, as the plan orders), ``evaluate`` and
        ``query`` (with the client's profile).
    """
    worker = _Worker()
    app = ClientApp()

    @app.train(mods=list(mods))
    def train(message: Message, context: Context) -> Message:
        return worker.train(message, environment_of(context), _client(context))

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        return worker.evaluate(message, environment_of(context), _client(context))

    @app.query()
    def query(message: Message, context: Context) -> Message:
        environment, client = environment_of(context), _client(context)
        data = environment.shard(client)
        profile = ConfigRecord({"partition-id": client, "num-examples": len(data)})
        if environment.share_labels:
            profile["label-counts"] = list(data.label_counts())
        return Message(RecordDict({"profile": profile}), reply_to=message)

    return app


class _Worker:
    """Resident models, one a thread, and the round's global arrays, decoded once for all threads."""

    def __init__(self) -> None:
        self._decode = Decoder()
        self._local = threading.local()
        self._planned: tuple[ConfigRecord, TrainingPlan] | None = None

    def _plan(self, config: ConfigRecord) -> TrainingPlan:
        """The plan in a configuration, which all clients of a round are sent alike."""
        planned = self._planned  # once: other threads may put another there
        if planned is None or planned[0] != config:
            self._planned = planned = ConfigRecord(dict(config)), TrainingPlan.from_config(config)
        return planned[1]

    def train(self, message: Message, environment: Environment, client: int) -> Message:
        config = cast("ConfigRecord", message.content["config"])
        plan = self._plan(config)
        if plan.loss != environment.task.objective:
            raise invalid(
                "loss",
                plan.loss,
                f"client {client} has a task with the loss {environment.task.objective!r}",
                "Give server and clients the same [task]",
            )
        round = cast("int", config[ROUND_KEY])
        task, occasion = environment.task, Occasion(environment.seed, client, round)
        data = environment.shard(client)
        schedule = batches(plan, len(data), seed=environment.seed, client=client, round=round)
        model, state = self._model(environment, cast("ArrayRecord", message.content["arrays"]))
        reported: dict[str, float] = {}
        if SQUARE_LOSS in cast("list[str]", config.get(REPORT_KEY, [])):  # before training moves the weights
            used = torch.unique(torch.cat(schedule))
            reported[SQUARE_LOSS] = training.square_loss(
                model, data, environment.normalisation, used, task=task, occasion=occasion
            )
        if plan.algorithm == "fedsgd":
            gradients, loss = training.gradient(
                model, data, environment.normalisation, schedule[0], plan, task=task, occasion=occasion
            )
            arrays: Arrays = gradients | {name: state[name] for name in buffer_names(model)}
            kind, examples = "gradient", len(schedule[0])
        else:
            proximal = float(cast("float", config.get("proximal-mu", 0.0)))
            loss = training.local_steps(
                model,
                data,
                environment.normalisation,
                schedule,
                plan,
                round=round,
                proximal=proximal,
                task=task,
                occasion=occasion,
            )
            arrays, kind, examples = state, "model", len(data)
        metrics = MetricRecord({"num-examples": examples, "train-loss": loss, **reported})
        return _reply(message, client, metrics, to_record(arrays), kind)

    def evaluate(self, message: Message, environment: Environment, client: int) -> Message:
        data = environment.shard(client)
        model, _ = self._model(environment, cast("ArrayRecord", message.content["arrays"]))
        found = training.evaluate(model, data, environment.normalisation, task=environment.task)
        measured = {f"eval-{metric}": value for metric, value in found.items()}
        metrics = MetricRecord({"num-examples": len(data), **measured})
        return _reply(message, client, metrics)

    def _model(self, environment: Environment, record: ArrayRecord) -> tuple[nn.Module, Arrays]:
        """This thread's model with the record's arrays in it, and its ``state_dict``, which stays its own."""
        resident: _Resident | None = getattr(self._local, "resident", None)
        if resident is None or resident.environment is not environment:
            model = laid_out(environment.model().to(torch.device(environment.device))).train()
            resident = self._local.resident = _Resident(environment, model, model.state_dict())
        training.load(resident.state, self._decode(record))
        return resident.model, resident.state


@dataclass(frozen=True)
class _Resident:
    environment: Environment
    model: nn.Module
    state: Arrays


def _reply(
    message: Message, client: int, metrics: MetricRecord, arrays: ArrayRecord | None = None, kind: str = ""
) -> Message:
    # The client's number goes beside the metrics, not into them: Flower's strategies average metrics.
    content = RecordDict({"metrics": metrics, "client": ConfigRecord({"partition-id": client, "kind": kind})})
    if arrays is not None:
        content["arrays"] = arrays
    return Message(content, reply_to=message)


def _client(context: Context) -> int:
    if "partition-id" not in context.node_config:
        raise invalid(
            "node_config",
            dict(context.node_config),
            "has no partition-id",
            'Start the SuperNode with --node-config "partition-id=0 num-partitions=10"',
        )
    return int(context.node_config["partition-id"])
