"""UNets built from parameters: sizes, seeds, second derivatives, and what is refused."""

import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fedsim import seeding
from fedsim.diffusion import SCHEDULES, Objective, ddim, denoiser
from fedsim.diffusion.unets import NETWORKS, UNet, build, builder
from fedsim.errors import FedsimError


@pytest.fixture(autouse=True)
def _diffusers(request: pytest.FixtureRequest) -> None:
    if "without_diffusers" not in request.node.name:
        pytest.importorskip("diffusers", reason="NOT TESTED: the UNet. Run: pip install fedsim[diffusion]")


def size(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def tiny(**parameters: object) -> nn.Module:
    return build("unet", (1, 8, 8), widths=(8, 16), **parameters)


def images(*shape: int, name: str = "x") -> Tensor:
    return torch.randn(shape, generator=seeding.generator(0, "test", "unet", name), dtype=torch.float64)


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (1, 16, 16), (3, 28, 20)])
def test_answers_are_shaped_as_images(shape: tuple[int, int, int]) -> None:
    network = build("unet", shape)
    assert not network.training
    assert 0.5e6 < size(network) < 3e6
    with torch.no_grad():
        answer, hidden = network.features(torch.rand(2, *shape), torch.tensor([0, 999]))
        assert answer.shape == (2, *shape)
        assert hidden.shape == (2, 32, *shape[1:])
        assert torch.equal(network.out(hidden), answer)
    assert not list(network.buffers())


@pytest.mark.parametrize(("widths", "count"), [((16, 32, 64), 636_465), ((32, 64, 64), 1_062_497)])
def test_sizes_are_those_of_diffusers(widths: tuple[int, ...], count: int) -> None:
    assert size(build("unet", (1, 28, 28), widths=widths)) == count


def test_it_is_diffusers_model() -> None:
    """Nothing is lost by the other attention and the last layer's other place."""
    diffusers = pytest.importorskip("diffusers")
    theirs = diffusers.UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        down_block_types=("DownBlock2D",) * 2,
        up_block_types=("UpBlock2D",) * 2,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=8,
    ).eval()
    ours = tiny()
    state = {name.removeprefix("unet."): value for name, value in ours.state_dict().items()}
    theirs.load_state_dict({name.replace("out.", "conv_out.", name.startswith("out.")): v for name, v in state.items()})
    x, t = images(3, 1, 8, 8).float(), torch.tensor([0, 3, 700])
    with torch.no_grad():
        assert torch.allclose(ours(x, t), theirs(x, t).sample, atol=1e-6)


def test_weights_depend_on_the_seed_alone() -> None:
    def flat(seed: int) -> Tensor:
        torch.rand(seed + 1)  # whatever was drawn before
        return nn.utils.parameters_to_vector(tiny(seed=seed).parameters())

    state = torch.random.get_rng_state()
    make = builder("unet", (1, 8, 8), seed=0, widths=(8, 16))
    assert torch.equal(nn.utils.parameters_to_vector(make().parameters()), flat(0))
    torch.random.set_rng_state(state)
    assert torch.equal(flat(0), flat(0))
    assert not torch.equal(flat(0), flat(1))


def test_step_and_label_matter() -> None:
    network, x = tiny(classes=10), images(2, 1, 8, 8).float()
    with torch.no_grad():
        answers = [network(x, torch.tensor([t, t]), torch.tensor([k, k])) for t, k in ((3, 1), (9, 1), (3, 2))]
    assert not torch.allclose(answers[0], answers[1], atol=1e-4)
    assert not torch.allclose(answers[0], answers[2], atol=1e-4)


def test_examples_of_a_batch_do_not_mix() -> None:
    network, x, t = tiny(), images(3, 1, 8, 8).float(), torch.tensor([5, 60, 700])
    with torch.no_grad():
        for i in range(3):
            assert torch.allclose(network(x, t)[i], network(x[i : i + 1], t[i : i + 1])[0], atol=1e-5)


@pytest.mark.parametrize("prediction", ["epsilon", "v"])
def test_the_distance_of_gradients_has_a_gradient(prediction: str) -> None:
    """What an attack on the loss descends, against finite differences: every layer's second derivative is there."""
    network, objective = tiny().double(), Objective(SCHEDULES.create("sigmoid", 16), prediction)
    x, noise, t = images(1, 1, 8, 8).requires_grad_(), images(1, 1, 8, 8, name="e"), torch.tensor([7])

    def distance(x: Tensor) -> Tensor:
        loss = objective(network, x, noise, t)
        gradients = torch.autograd.grad(loss, list(network.parameters()), create_graph=True)
        return torch.stack([g.square().sum() for g in gradients]).sum()

    (found,) = torch.autograd.grad(distance(x), x)
    way = images(1, 1, 8, 8, name="way")
    with torch.no_grad():
        ahead, behind = x + 1e-5 * way, x - 1e-5 * way
    measured = (distance(ahead) - distance(behind)) / 2e-5
    assert float((found * way).sum()) == pytest.approx(float(measured.detach()), rel=1e-6)


def test_a_sampler_over_it_passes_gradients_to_its_noise() -> None:
    network, schedule = tiny().double(), SCHEDULES.create("sigmoid", 16)
    z, way = images(1, 1, 8, 8, name="z").requires_grad_(), images(1, 1, 8, 8, name="way")

    def image(z: Tensor) -> Tensor:
        return ddim(denoiser(network, schedule, "v"), schedule, z, schedule.spaced(4).flip(0)).square().sum()

    (found,) = torch.autograd.grad(image(z), z)
    with torch.no_grad():
        measured = (image(z + 1e-5 * way) - image(z - 1e-5 * way)) / 2e-5
    assert float((found * way).sum()) == pytest.approx(float(measured), rel=1e-6)


def test_it_learns() -> None:
    """A few steps on one batch of smooth pictures at least halve its loss."""
    network, objective = tiny().train(), Objective(SCHEDULES.create("linear", 100))
    row = torch.linspace(-1, 1, 8)
    x_0 = torch.stack([torch.outer(torch.cos(k * row), torch.sin(k * row)) for k in range(1, 17)])[:, None]
    noise, t = images(16, 1, 8, 8).float(), torch.arange(4, 100, 6)
    optimiser, losses = torch.optim.Adam(network.parameters(), 3e-3), []
    for _ in range(80):
        optimiser.zero_grad()
        loss = objective(network, x_0, noise, t)
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] / 2


def test_what_cannot_be_built_is_explained() -> None:
    with pytest.raises(FedsimError, match=r"4 halvings.*divisible by 16.*28x28.*3 widths or fewer"):
        build("unet", (1, 28, 28), widths=(8, 8, 8, 8, 8))
    with pytest.raises(FedsimError, match=r"27x27.*1 width or fewer"):
        build("unet", (1, 27, 27))
    with pytest.raises(FedsimError, match="groups"):
        tiny(groups=3)
    with pytest.raises(FedsimError, match="widths"):
        build("unet", (1, 8, 8), widths=())
    with pytest.raises(FedsimError, match="widths"):
        build("unet", (1, 8, 8), width=8)
    with pytest.raises(FedsimError, match="unet"):
        build("unett", (1, 8, 8))
    with pytest.raises(FedsimError, match=r"torch\.nn\.Module"):
        build("builtins:print", (1, 8, 8))


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"layers": 0}, "layers = 0: .*Give 1"),
        ({"classes": -1}, "classes = -1: .*Give 0"),
        ({"widths": (8, 4), "groups": 4}, "divisible by 8.*attention = false"),
        ({"widths": (8, 12), "groups": 4}, "divisible by 8.*attention = false"),
    ],
)
def test_numbers_out_of_range_are_refused_with_a_remedy(parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(FedsimError, match=message):
        build("unet", (1, 8, 8), **{"widths": (8, 16), **parameters})


@pytest.mark.parametrize("width", [4, 12])
def test_without_attention_any_last_width_goes(width: int) -> None:
    network = build("unet", (1, 8, 8), widths=(8, width), groups=4, attention=False, classes=0)
    with torch.no_grad():
        assert network(torch.rand(1, 1, 8, 8), torch.tensor([3])).shape == (1, 1, 8, 8)


def test_one_width_takes_any_size() -> None:
    network = build("unet", (1, 27, 13), widths=(8,))
    with torch.no_grad():
        assert network(torch.rand(1, 1, 27, 13), torch.tensor([3])).shape == (1, 1, 27, 13)


def test_without_diffusers_all_else_works(tmp_path: object) -> None:
    """In a process that cannot import it: the package does, and the UNet says what to install."""
    program = (
        "import sys; sys.modules['diffusers'] = None\n"
        "import fedsim.diffusion as d\n"
        "from fedsim.errors import FedsimError\n"
        "d.SCHEDULES.create('linear', 100)\n"
        "try:\n    d.build('unet', (1, 28, 28))\n"
        "except FedsimError as error:\n    sys.exit('fedsim[diffusion]' not in str(error))\n"
        "sys.exit(2)\n"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_names() -> None:
    assert "unet" in NETWORKS.names()
    assert isinstance(tiny(), UNet)
