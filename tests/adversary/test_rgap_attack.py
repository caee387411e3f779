"""R-GAP as an attack: what it finds in observations, and refusals that name the layer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from chains import DEFICIENT, EXACT, SHAPE, chain, image, overhear, wide
from overheard import clothes, overhear_gradient, overhear_model, psnr
from torch import Tensor, nn
from torch.nn import functional

from adversary import ATTACKS
from adversary.campaign import Campaign
from adversary.rgap import rank_analysis
from adversary.rgap.attack import tolerance
from experiments.campaigns import campaigns
from experiments.experiment import Experiment
from fedsim import models
from fedsim.data import DataSet
from fedsim.errors import FedsimError
from fedsim.protocol import Knowledge, TrainingPlan


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Conv2d(3, 3, 3, padding=1)
        self.fc = nn.Linear(270, 7)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.fc((x + self.inner(x)).flatten(1))
        return logits


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(270, 7)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.fc(x.flatten(1) if x.sum() > 0 else -x.flatten(1))
        return logits


def twice() -> nn.Module:
    shared = nn.Conv2d(3, 3, 3, padding=1)
    return nn.Sequential(shared, nn.Tanh(), shared, nn.Flatten(), nn.Linear(270, 7))


def conv(**options: object) -> nn.Module:
    layer = nn.Conv2d(3, 3, 3, **options)  # type: ignore[arg-type]
    return nn.Sequential(layer, nn.Flatten(), nn.LazyLinear(7))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: nn.Sequential(wide(), nn.ReLU(), nn.Flatten(), nn.Linear(1344, 7)), ["'1' (ReLU) has no inverse"]),
        (lambda: nn.Sequential(nn.AvgPool2d(3), nn.Flatten(), nn.Linear(27, 7)), ["'0' (AvgPool2d) has no inverse"]),
        (lambda: nn.Sequential(wide(), nn.LeakyReLU(0.0), nn.Flatten(), nn.Linear(1344, 7)), ["'1' (LeakyReLU)"]),
        (lambda: nn.Sequential(nn.Linear(10, 4), nn.Flatten(), nn.Linear(108, 7)), ["'0' (Linear)", "along an axis"]),
        (lambda: conv(padding=1, padding_mode="circular"), ["'0' (Conv2d)", "zeros"]),
        (lambda: conv(padding="same"), ["'0' (Conv2d)", "zeros"]),
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(270, 7, bias=False)), ["linear layer with a bias", "has none"]),
        (Residual, ["'add'", "needs a chain"]),
        (Branching, ["cannot be traced"]),
        (twice, ["'0' is used twice"]),
    ],
)
def test_networks_that_are_out_of_reach_are_refused_by_the_name_of_the_layer(
    make: Callable[[], nn.Module], words: list[str]
) -> None:
    network = make().eval()
    network(torch.zeros(1, *SHAPE))
    observation, knowledge = overhear(network, image().float())
    with pytest.raises(FedsimError) as refused:
        ATTACKS.create("rgap").reconstruct([observation], knowledge, seed=0)
    for word in words:
        assert word in str(refused.value)


def test_a_run_whose_network_cannot_be_attacked_is_refused_before_it_starts() -> None:
    def planned(model: str) -> Experiment:
        data = {"name": "fashion_mnist_small", "clients": 2, "partition": {"name": "iid"}}
        training = {"algorithm": "fedsgd", "batch_size": 1, "rounds": 1}
        return Experiment.of(
            {"data": data, "model": {"name": model}, "training": training, "attacks": [{"name": "rgap"}]}
        )

    assert len(campaigns(planned("lenet"))) == 1
    with pytest.raises(FedsimError, match=r"'rgap' cannot work here.*'1' \(ReLU\)"):
        campaigns(planned("cnn"))


def test_a_layer_too_large_to_solve_is_named() -> None:
    network = nn.Sequential(nn.Conv2d(3, 2, 5, padding=2), nn.Tanh(), nn.Flatten(), nn.Linear(2 * 128 * 128, 2))
    with pytest.raises(FedsimError, match="'0' would have"):
        rank_analysis(network, (3, 128, 128))


def test_batches_and_updates_of_several_steps_are_refused() -> None:
    victim = overhear_gradient(*clothes([0, 1]))
    with pytest.raises(FedsimError, match="at most 1 example"):
        ATTACKS.create("rgap").reconstruct([victim.observation], victim.knowledge, seed=0)
    several = overhear_model(*clothes([0]), TrainingPlan(batch_size=1, local_epochs=3), model="lenet")
    with pytest.raises(FedsimError, match="one local step"):
        ATTACKS.create("rgap").reconstruct([several.observation], several.knowledge, seed=0)


@pytest.mark.parametrize(("precision", "decibels"), [(torch.float64, 140.0), (torch.float32, 60.0)], ids=str)
def test_the_attack_is_as_exact_as_the_gradient_that_it_is_given(precision: torch.dtype, decibels: float) -> None:
    """140 dB is what the float32 of a reconstruction holds."""
    network = EXACT["leaky relu"]().to(precision)
    observation, knowledge = overhear(network, image().to(precision))
    found = ATTACKS.create("rgap").reconstruct([observation], knowledge, seed=0)
    assert psnr(found.images.double(), image()) > decibels
    assert found.labels.tolist() == [2]
    assert found.loss < 1e-8
    assert (found.stopped_by, found.iterations) == ("closed form", 0)


def test_the_attack_undoes_normalisation_and_reads_one_local_step() -> None:
    image, label = clothes([3])
    victim = overhear_gradient(image, label, model="mlp", mean=0.3, std=0.4)
    found = ATTACKS.create("rgap").reconstruct([victim.observation], victim.knowledge, seed=0)
    assert psnr(found.images, image) > 80
    assert found.labels.tolist() == label.tolist()
    stepped = overhear_model(image, label, TrainingPlan(batch_size=None, learning_rate=0.1, mode="eval"), model="mlp")
    found = ATTACKS.create("rgap").reconstruct([stepped.observation], stepped.knowledge, seed=0)
    assert psnr(found.images, image) > 40


def test_what_the_rounding_of_an_update_hides_is_not_taken_for_a_constraint() -> None:
    """The rank is the same whether the gradient came in double or in single precision."""
    make, hiding = DEFICIENT["in the middle"]
    endings = []
    for precision in (torch.float64, torch.float32):
        observation, knowledge = overhear(make().to(precision), image().to(precision))
        found = ATTACKS.create("rgap").reconstruct([observation], knowledge, seed=0)
        endings.append(found.stopped_by)
    assert endings[0] == endings[1]
    assert hiding[0] in endings[0]
    gradient, _ = overhear(make().float(), image().float())
    assert tolerance(gradient) == pytest.approx(2.4e-5, rel=0.01)
    after = {name: tensor - 1e-3 * gradient.received[name] for name, tensor in gradient.sent.items()}
    assert tolerance(replace(gradient, kind="model", received=after)) > 10 * tolerance(gradient)


def test_refinement_goes_on_from_the_closed_form_where_that_is_incomplete() -> None:
    network = chain(nn.Conv2d(3, 6, 3, stride=2, padding=1), nn.LeakyReLU(0.2)).float()
    assert not rank_analysis(network, SHAPE).leaks
    smooth = functional.interpolate(image()[..., :3, :3], SHAPE[1:], mode="bilinear").float()
    observation, knowledge = overhear(network, smooth)
    closed = ATTACKS.create("rgap").reconstruct([observation], knowledge, seed=0)
    refined = ATTACKS.create("rgap", refine_iterations=300).reconstruct([observation], knowledge, seed=0)
    assert refined.iterations == 300
    assert psnr(refined.images, smooth) > psnr(closed.images, smooth) + 10
    assert "not determined at 0 (rank" in refined.stopped_by
    exact, knowing = overhear(EXACT["leaky relu"](), image())
    assert ATTACKS.create("rgap", refine_iterations=300).reconstruct([exact], knowing, seed=0).iterations == 0


def test_broken_and_empty_gradients_count_as_failures() -> None:
    observation, knowledge = overhear(EXACT["leaky relu"]().float(), image().float())
    campaign = Campaign(ATTACKS.create("rgap"), label="rgap")
    for factor, reason in ((torch.nan, "diverged"), (0.0, "failed: the gradient is zero")):
        broken = replace(observation, received={key: factor * value for key, value in observation.received.items()})
        found = campaign.run(broken, knowledge, seed=0)
        assert found.stopped_by == reason
        assert torch.equal(found.images, torch.full((1, *SHAPE), 0.5))


@pytest.mark.slow
def test_cnn6_leaks_and_cnn6_d_does_not(stored: Callable[[str], DataSet]) -> None:
    """R-GAP's two networks: from the ranks of CNN6-d's second convolution, 3188 of 3468, to the pictures."""
    chosen = stored("cifar10").test.subset(torch.tensor([7]))
    inputs = chosen.images.double() / 255
    for name, safe in (("cnn6", ()), ("cnn6_d", ("2",))):
        network = models.build(name, (3, 32, 32), 10)
        analysis = rank_analysis(network, (3, 32, 32))
        assert analysis.safe_because == safe
        if safe:
            assert [(layer.rank, layer.unknowns) for layer in analysis.layers if layer.layer == "2"] == [(3188, 3468)]
        observation, _ = overhear(network.double(), inputs, int(chosen.labels))
        knowledge = Knowledge(models.builder(name, (3, 32, 32), 10), (3, 32, 32), 10)
        found = ATTACKS.create("rgap").reconstruct([observation], knowledge, seed=0)
        decibels = psnr(found.images.double(), inputs)
        assert decibels < 15 if safe else decibels > 100
        assert found.labels.tolist() == chosen.labels.tolist()
