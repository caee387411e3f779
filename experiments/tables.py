"""The tables of a configuration: what can be set, by which names, within which ranges."""

from __future__ import annotations

from typing import Any, Literal

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, model_validator

from clients.faults import Faults
from fedsim.devices import Devices
from fedsim.protocol import Algorithm, Grant, Mode, Precision, TrainingPlan


class _Table(BaseModel):
    """A table whose keys are all known."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Part(BaseModel):
    """A part named by ``name``, with its own parameters beside it."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True)

    name: str

    @property
    def parameters(self) -> dict[str, Any]:
        """The keys beside those of the table."""
        return dict(self.model_extra or {})


class Data(Part):
    """``[data]``: the data set, its parameters, and how it is dealt out.

    Attributes:
        name: a data set of the store, or ``module:callable``.
        clients: number of clients.
        partition: how the training images are dealt out.
        train_size: if given, only the first images of the training split are used.
        test_size: likewise of the test split.
        validation_size: if given, so many images of the test split, the same share of each class, are the server's
            own, to judge updates by; test accuracy is of the others.
        normalise: whether clients subtract the mean and divide by the standard deviation.
    """

    name: str = "fashion_mnist_small"
    clients: int = Field(20, ge=1)
    partition: Part = Part(name="iid")
    train_size: int | None = Field(None, ge=1)
    test_size: int | None = Field(None, ge=1)
    validation_size: int | None = Field(None, ge=1)
    normalise: bool = True


class Model(Part):
    """``[model]``: the network and its parameters."""

    name: str = "cnn"


class TaskTable(Part):
    """``[task]``: what is trained, and its parameters; ``[model]`` names one of the task's networks."""

    name: str = "classification"


class Training(_Table):
    """``[training]``: what the server orders, and how it aggregates.

    Attributes:
        algorithm: ``fedavg`` or ``fedsgd``.
        rounds: number of rounds.
        batch_size: examples a local step, or ``"full"`` for the whole shard.
        local_epochs: passes over the shard a round, for ``fedavg``.
        local_steps: steps a round instead of ``local_epochs``.
        learning_rate: of the clients' SGD; of the server's optimiser with ``fedsgd``.
        learning_rate_decay: factor a round.
        momentum: of the clients' SGD.
        weight_decay: L2 coefficient.
        mode: ``train`` or ``eval``, of the model during local training.
        precision: ``float32`` or ``bf16``, of the network during local training.
        strategy: how the server aggregates; by default ``fedsgd`` or ``fedavg``, as the algorithm.
        ema: decay of the moving average of the global model over rounds, which is evaluated, and sampled from, in its
            place (``server.averaging``); 0 for the global model itself.
        evaluate_every: rounds between central evaluations.
        client_evaluation: whether all clients evaluate each new global model on their own shard.
        min_share: share of the cohort that must answer well for a round to count.
        timeout: seconds that a client may take, from when it is given to a worker.
    """

    algorithm: Algorithm = "fedavg"
    rounds: int = Field(10, ge=1)
    batch_size: int | Literal["full"] = 32
    local_epochs: int = Field(1, ge=1)
    local_steps: int | None = Field(None, ge=1)
    learning_rate: float = Field(0.1, ge=0)
    learning_rate_decay: float = Field(1.0, gt=0)
    momentum: float = Field(0.0, ge=0, lt=1)
    weight_decay: float = Field(0.0, ge=0)
    mode: Mode = "train"
    precision: Precision = "float32"
    strategy: Part | None = None
    ema: float = Field(0.0, ge=0, lt=1)
    evaluate_every: int = Field(1, ge=1)
    client_evaluation: bool = False
    min_share: float = Field(0.5, gt=0, le=1)
    timeout: float = Field(3600, gt=0)

    def plan(self) -> TrainingPlan:
        """What is sent to the clients."""
        return TrainingPlan(
            algorithm=self.algorithm,
            batch_size=None if self.batch_size == "full" else self.batch_size,
            local_epochs=self.local_epochs,
            local_steps=self.local_steps,
            learning_rate=self.learning_rate,
            learning_rate_decay=self.learning_rate_decay,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            mode=self.mode,
            precision=self.precision,
        )


class Selection(Part):
    """``[selection]``: who trains in a round.

    Attributes:
        name: of the selector.
        clients_per_round: size of the cohort; everybody by default.
    """

    name: str = "uniform"
    clients_per_round: int | None = Field(None, ge=1)


class QualityTable(_Table):
    """``[quality]``: how good what the global model draws is, beside held-out images (``server.quality``).

    Attributes:
        samples: images drawn.
        every: rounds between judgements; the first and the last round are always judged, of those evaluated.
        neighbours: k, of precision and recall.
    """

    samples: int = Field(256, ge=8)
    every: int = Field(5, ge=1)
    neighbours: int = Field(3, ge=1, le=7)


class Contribution(Part):
    """``[contribution]``: how the server finds what each client's update was worth; needs ``data.validation_size``.

    Attributes:
        name: of the method; its parameters stand beside it.
        metric: ``loss`` or ``accuracy`` on the validation images; values are in its units.
        every: rounds between appraisals, the first of which is in round 1.
    """

    name: str = "gtg"
    metric: Literal["loss", "accuracy"] = "loss"
    every: int = Field(1, ge=1)


class Engine(Part):
    """``[engine]``: what runs the clients.

    Attributes:
        name: of the engine.
        workers: clients computed at the same time; results do not depend on it.
        attack_workers: processes that attack while training goes on; with 0 each round's attacks come
            before the next round. Results do not depend on it.
    """

    name: str = "local"
    workers: int = Field(1, ge=1)
    attack_workers: int = Field(0, ge=0)


class Durations(_Table):
    """``[durations]``: how long clients are simulated to take, for selectors that ask; see ``fedsim.devices``.

    Attributes:
        examples_per_second: computed by the median client.
        spread: of computing speeds, standard deviation of their logarithm.
        bytes_per_second: of the median client's network.
        network_spread: of networks, likewise.
        jitter: from round to round, likewise.
    """

    examples_per_second: float = Field(500.0, gt=0)
    spread: float = Field(1.0, ge=0)
    bytes_per_second: float = Field(1e6, gt=0)
    network_spread: float = Field(1.0, ge=0)
    jitter: float = Field(0.1, ge=0)

    def devices(self) -> Devices:
        """What makes them."""
        return Devices(**self.model_dump())


class Device(_Table):
    """``[device]``: where clients, evaluation and attacks compute: ``cpu``, ``cuda`` or ``cuda:1``."""

    name: str = "cpu"


class Wiretap(_Table):
    """``[wiretap]``: whether all observations are written down, for ``fedsim attack`` afterwards."""

    record: bool = False


class AttackTable(Part):
    """``[[attacks]]``: an attack, whom it attacks, and what it is granted.

    Attributes:
        name: of the attack; its parameters stand beside it.
        label: what the report calls it; the name by default.
        rounds: numbers, or ``first``, ``middle``, ``last``, or ``"all"``, or ``"every 10"``.
        clients: numbers, or ``"all"``, or how many of the cohort (the first ones) as an integer.
        grants: what the threat model grants beyond the protocol: ``labels``, ``batch_order``, ``defences``; of a
            diffusion loss ``noise`` and ``steps``.
        observations: how many observations of a victim are used together at most: that of the round attacked and
            the last ones before it, as many as there are. Those of future attacks are kept on disk until the end.
        at_once: how many victims of a round are attacked at once at most, which is faster for small networks and needs
            their memory; only attacks whose parts all work on several. Results differ by rounding from one by one.
        compiled: whether what is attacked at once is compiled; ``"auto"`` where the network's size and the
            iterations say that it pays. Needs a C++ compiler. Results differ by rounding.
        lpips: whether LPIPS is computed too, where its weights are there.
    """

    name: str
    label: str | None = None
    rounds: int | list[int | Literal["first", "middle", "last"]] | str = ["first"]
    clients: int | list[int] | Literal["all"] = "all"
    grants: list[Grant] = []
    observations: int = Field(1, ge=1)
    at_once: int = Field(1, ge=1)
    compiled: bool | Literal["auto"] = False
    lpips: bool = True


class Defence(Part):
    """``[[defences]]``: a defence of every client, its parameters beside the name; applied in the order written."""


class Config(_Table):
    """The whole configuration."""

    name: str = "experiment"
    seed: int = 0
    data: Data = Data()
    task: TaskTable = TaskTable()
    model: Model = Model()
    training: Training = Training()
    selection: Selection = Selection()
    contribution: Contribution | None = None
    quality: QualityTable | None = None
    engine: Engine = Engine()
    device: Device = Device()
    durations: Durations | None = None
    faults: Faults | None = None
    wiretap: Wiretap = Wiretap()
    defences: list[Defence] = []
    attacks: list[AttackTable] = []

    @model_validator(mode="after")
    def _labels_differ(self) -> Config:
        labels = [attack.label or attack.name for attack in self.attacks]
        for label in labels:
            if labels.count(label) > 1:
                raise ValueError(f"two attacks are called {label!r}; give each a label of its own")
        return self

    def to_toml(self) -> str:
        """As a TOML document; values that are not set are left out."""
        return tomli_w.dumps(_without_none(self.model_dump(mode="json")))


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_without_none(item) for item in value]
    return value
