"""Federated training against closed forms and against plain PyTorch, on real images."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from experiments.experiment import Experiment
from fedsim.arrays import from_record, to_record
from fedsim.data import normalised
from fedsim.errors import FedsimError
from fedsim.models import laid_out
from server import STRATEGIES, Round, federate

SMALL = {"name": "fashion_mnist_small", "train_size": 200, "test_size": 50, "clients": 4}


def experiment(**tables: Any) -> Experiment:
    return Experiment.of({"data": SMALL, "model": {"name": "lenet"}, **tables})


def train(experiment: Experiment, order: Sequence[int] | None = None) -> list[Round]:
    grid = experiment.grid()
    if order is not None:
        send = grid.send_and_receive
        grid.send_and_receive = lambda messages, *, timeout=None: [  # type: ignore[method-assign]
            list(send(messages, timeout=timeout))[i] for i in order
        ]
    return list(
        federate(
            experiment.strategy(),
            grid,
            to_record(experiment.model().state_dict()),
            rounds=experiment.config.training.rounds,
            train_config=experiment.plan.to_config(),
        )
    )


def final(experiment: Experiment, order: Sequence[int] | None = None) -> dict[str, Tensor]:
    return from_record(train(experiment, order)[-1].arrays)


def assert_close(one: dict[str, Tensor], other: dict[str, Tensor], tolerance: float = 1e-6) -> None:
    assert list(one) == list(other)
    for name, tensor in one.items():
        torch.testing.assert_close(tensor, other[name], rtol=0, atol=tolerance)


def everything(experiment: Experiment) -> tuple[Tensor, Tensor]:
    members = torch.cat(list(experiment.shards))
    data = experiment.data
    return normalised(data.train.images[members], data.mean, data.std), data.train.labels[members]


UNEVEN = SMALL | {"partition": {"name": "dirichlet", "alpha": 0.5}}


def test_fedsgd_with_all_clients_and_full_batches_is_central_gradient_descent() -> None:
    one = experiment(
        data=UNEVEN, training={"algorithm": "fedsgd", "batch_size": "full", "rounds": 3, "learning_rate": 0.5}
    )
    assert len({len(shard) for shard in one.shards}) > 1  # weights by examples matter
    model, (inputs, labels) = one.model(), everything(one)
    optimiser = torch.optim.SGD(model.parameters(), 0.5)
    for _ in range(3):
        optimiser.zero_grad()
        functional.cross_entropy(model(inputs), labels).backward()
        optimiser.step()
    assert_close(final(one), model.state_dict(), 2e-6)


def test_fedavg_with_one_full_batch_step_is_fedsgd() -> None:
    common = {"batch_size": "full", "rounds": 2, "learning_rate": 0.3}
    averaged = final(experiment(data=UNEVEN, training=common | {"local_steps": 1}))
    stepped = final(experiment(data=UNEVEN, training=common | {"algorithm": "fedsgd"}))
    assert_close(averaged, stepped)


@pytest.mark.parametrize("workers", [1, 3])
def test_fedavg_over_local_is_a_plain_loop(workers: int) -> None:
    """Momentum, weight decay, decaying learning rate, a smaller last batch: all as PyTorch does them."""
    one = experiment(
        data=UNEVEN,
        training={
            "rounds": 2, "local_epochs": 2, "batch_size": 16, "learning_rate": 0.2, "learning_rate_decay": 0.5,
            "momentum": 0.9, "weight_decay": 0.01,
        },
        engine={"workers": workers},
    )  # fmt: skip
    state = {name: tensor.clone() for name, tensor in one.model().state_dict().items()}
    for number in (1, 2):
        mean = {name: torch.zeros_like(tensor) for name, tensor in state.items()}
        for client, members in enumerate(one.shards):
            model = laid_out(one.model())  # kernels round alike
            model.load_state_dict(state)
            optimiser = torch.optim.SGD(model.parameters(), 0.2 * 0.5 ** (number - 1), momentum=0.9, weight_decay=0.01)
            inputs = normalised(one.data.train.images[members], one.data.mean, one.data.std)
            for chosen in one.batches(client, number):
                optimiser.zero_grad()
                functional.cross_entropy(model(inputs[chosen]), one.data.train.labels[members][chosen]).backward()
                optimiser.step()
            for name, tensor in model.state_dict().items():
                mean[name] += tensor * (len(members) / 200)
        state = mean
    assert_close(final(one), state)


def test_the_same_seed_gives_the_same_bytes_whatever_workers_and_order() -> None:
    def arrays(seed: int = 0, workers: int = 1, order: Sequence[int] | None = None) -> dict[str, bytes]:
        one = experiment(seed=seed, training={"rounds": 2, "batch_size": 8}, engine={"workers": workers},
                         selection={"clients_per_round": 3})  # fmt: skip
        return {name: tensor.numpy().tobytes() for name, tensor in final(one, order).items()}

    torch.manual_seed(1)
    first = arrays()
    torch.manual_seed(2)
    assert first == arrays() == arrays(workers=3) == arrays(workers=2, order=[2, 0, 1])
    assert first != arrays(seed=1)


def test_batch_norm_statistics_travel_in_both_algorithms() -> None:
    for training in ({"algorithm": "fedsgd", "batch_size": 8}, {"batch_size": 8, "local_steps": 2}):
        one = experiment(model={"name": "resnet20", "width": 4}, training=training | {"rounds": 2})
        state = final(one)
        start = one.model().state_dict()
        assert {name: t.dtype for name, t in state.items()} == {name: t.dtype for name, t in start.items()}
        assert not torch.equal(state["1.running_mean"], start["1.running_mean"])
        assert int(state["1.num_batches_tracked"]) > 0


def test_evaluation_mode_freezes_batch_norm_statistics() -> None:
    one = experiment(model={"name": "resnet20", "width": 4}, training={"batch_size": 8, "rounds": 1, "mode": "eval"})
    assert torch.equal(final(one)["1.running_mean"], one.model().state_dict()["1.running_mean"])


@pytest.mark.parametrize("name", sorted(set(STRATEGIES.names()) - {"fedsgd"}))
def test_flowers_strategies_work_by_name(name: str) -> None:
    one = experiment(training={"rounds": 2, "batch_size": 16, "strategy": {"name": name}, "client_evaluation": True})
    rounds = train(one)
    assert all(torch.isfinite(tensor).all() for tensor in from_record(rounds[-1].arrays).values())
    assert 0 <= rounds[-1].client_evaluation["eval-accuracy"] <= 1
    assert not torch.equal(from_record(rounds[-1].arrays)["fc.bias"], from_record(rounds[0].arrays)["fc.bias"])


def test_the_proximal_term_holds_clients_back() -> None:
    """FedProx, eq. 2: with a step size eta and mu = 1 / eta, each step returns to the start plus -eta g."""
    free, held = (
        final(experiment(training={"rounds": 1, "batch_size": 16, "local_steps": 5, "learning_rate": 0.1,
                                   "strategy": {"name": "fedprox", "proximal_mu": mu}}))
        for mu in (0.0, 10.0)
    )  # fmt: skip
    plain = final(experiment(training={"rounds": 1, "batch_size": 16, "local_steps": 5, "learning_rate": 0.1}))
    start = experiment().model().state_dict()
    moved = [
        float(nn.utils.parameters_to_vector([state[n] - start[n] for n in start]).norm()) for state in (free, held)
    ]
    assert_close(free, plain, 0.0)
    assert moved[1] < 0.5 * moved[0]


def test_server_optimisers_of_fedsgd() -> None:
    """Adam's first step moves every weight with a gradient by the learning rate (Kingma and Ba 2015)."""
    one = experiment(training={"algorithm": "fedsgd", "batch_size": "full", "rounds": 1, "learning_rate": 0.01,
                               "strategy": {"name": "fedsgd", "optimiser": "adam"}})  # fmt: skip
    difference = final(one)["fc.bias"] - one.model().state_dict()["fc.bias"]
    torch.testing.assert_close(difference.abs(), torch.full_like(difference, 0.01), rtol=1e-3, atol=0)


@pytest.mark.parametrize(
    ("tables", "words"),
    [
        ({"training": {"batch_size": 64}}, ["batch_size = 64", "50 examples", "At most" and "at most 50"]),
        ({"selection": {"clients_per_round": 9}}, ["clients_per_round = 9", "only 4"]),
        ({"data": SMALL | {"clients": 300}}, ["300", "200"]),
        ({"training": {"algorithm": "fedsgd", "strategy": {"name": "fedadam"}}}, ["fedadam", "fedsgd"]),
        ({"training": {"strategy": {"name": "fedavgg"}}}, ["fedavgg", "'fedavg'"]),
        ({"training": {"strategy": {"name": "fedadam", "etta": 1}}}, ["etta", "'eta'"]),
        ({"device": {"name": "cuda:9"}}, ["device.name", "cuda:9", "cpu"]),
        ({"model": {"name": "cnn", "activation": "rleu"}}, ["activation", "rleu"]),
    ],
)
def test_what_cannot_work_is_found_before_it_starts(tables: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(FedsimError) as error:
        experiment(**tables).check()
    for word in words:
        assert word in str(error.value)
