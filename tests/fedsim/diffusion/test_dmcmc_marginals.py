"""The marginals of long chains of denoising MCMC, by Kolmogorov and Smirnov, on draws far enough apart in time.

In the plane all chains begin at one mode and one level, so that what fits afterwards is what they have found.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from gaussians import Mixture
from scipy.stats import kstest
from torch import Tensor

from fedsim import seeding
from fedsim.diffusion import seeded_noise
from fedsim.diffusion.dmcmc import Chains, Joint, LevelRule, advance, drawn, likeliest
from fedsim.diffusion.levels import geometric


@dataclass(frozen=True)
class Case:
    """A mixture, the levels of its noise, and how its chains go.

    Attributes:
        mixture: the data.
        levels: of the chain.
        step_size: eta; discretisation is off by about eta / 4 over the lowest variance.
        burn_in: steps before the first draw.
        apart: steps from one draw to the next.
        chains: how many.
        draws: of each chain.
    """

    mixture: Mixture
    levels: Tensor
    step_size: float
    burn_in: int
    apart: int
    chains: int
    draws: int


PLANE = Case(
    Mixture(torch.tensor([[-1.0, 0.3], [1.0, -0.3], [0.6, 0.9]], dtype=torch.float64), 0.5),
    geometric(24, 0.2, 2.0),
    step_size=0.08,
    burn_in=300,
    apart=150,
    chains=250,
    draws=8,
)


def exact(case: Case) -> Chains:
    """Chains that are where they should be, as many at each mode, since in many dimensions they stay at theirs."""
    k = torch.randint(len(case.levels), (case.chains,), generator=_generator("exact levels"))
    modes = case.mixture.modes.repeat(case.chains // len(case.mixture.modes), 1)
    spread = (case.mixture.s**2 + case.levels[k].square()).sqrt()[:, None]
    return Chains(modes + spread * seeded_noise(_generator("exact"))(modes), case.levels[k])


def one_place(case: Case) -> Chains:
    """Chains at one mode and the lowest level."""
    return Chains(case.mixture.modes[:1].expand(case.chains, -1), case.levels[-1:].expand(case.chains))


def visited(case: Case, rule: LevelRule, *, drift: float = 1.0, begun: Chains | None = None) -> tuple[Tensor, Tensor]:
    """Images [draws, chains, d] and indices of levels [draws, chains]; the score multiplied by ``drift``."""
    known, levels = case.mixture, case.levels

    def denoise(y: Tensor, level: Tensor) -> Tensor:
        return y + drift * (known.denoise(y, level) - y)

    joint, noise = Joint(denoise, known.log_levels(levels), levels, rule), seeded_noise(_generator("moves"))
    chains = begun or one_place(case)
    images, indices = [], []
    for step in range(case.burn_in + case.apart * (case.draws - 1) + 1):
        if step:
            chains = advance(joint, chains, case.step_size, noise)
        if step >= case.burn_in and (step - case.burn_in) % case.apart == 0:
            images.append(chains.x)
            indices.append((chains.level[:, None] == levels).double().argmax(1))
    return torch.stack(images), torch.stack(indices)


def fits(case: Case, images: Tensor, indices: Tensor) -> tuple[float, float]:
    """The p-values of the images' first coordinate and of the level's index, smeared to be continuous."""
    smeared = indices + torch.rand(indices.shape, generator=_generator("smear"), dtype=torch.float64)
    of_images = kstest(images[..., 0].flatten().numpy(), case.mixture.marginal(case.levels)).pvalue
    return float(of_images), float(kstest((smeared / len(case.levels)).flatten().numpy(), "uniform").pvalue)


def memory(draws: Tensor) -> float:
    """The correlation of a chain's draw with its next one."""
    pairs = torch.stack([draws[:-1].flatten().double(), draws[1:].flatten().double()])
    return float(torch.corrcoef(pairs)[0, 1])


def _generator(name: str) -> torch.Generator:
    return seeding.generator(0, "test", "marginals", name)


def test_thinned_chains_have_the_marginals_of_the_joint_density() -> None:
    images, indices = visited(PLANE, drawn(_generator("levels")))
    assert abs(memory(images[..., 0])) < 0.08
    assert abs(memory(indices)) < 0.08
    assert min(fits(PLANE, images, indices)) > 0.01


@pytest.mark.parametrize("drift", [0.5, 2.0])
def test_a_wrong_step_is_found_out(drift: float) -> None:
    images, indices = visited(PLANE, drawn(_generator("levels")), drift=drift)
    assert max(fits(PLANE, images, indices)) < 1e-4


def test_a_wrong_draw_of_the_level_is_found_out() -> None:
    """Levels drawn from a posterior that is twice as sharp; and the likeliest level, which is wrong in the plane."""
    sharp = drawn(_generator("levels"))
    assert fits(PLANE, *visited(PLANE, lambda logits: sharp(2 * logits)))[1] < 1e-3
    assert fits(PLANE, *visited(PLANE, likeliest))[1] < 1e-6


SPACE = Case(
    Mixture(torch.randn(3, 784, generator=_generator("modes"), dtype=torch.float64), 0.1),
    geometric(60, 0.2, 2.0),
    step_size=0.005,
    burn_in=40,
    apart=1,
    chains=999,
    draws=1,
)


@pytest.mark.parametrize("likely", [True, False], ids=["likeliest", "drawn"])
def test_in_many_dimensions_either_rule_keeps_the_marginals(likely: bool) -> None:
    """In 784 of them levels move too slowly to be found by the chain: it begins where it should stay, and moves."""
    rule = likeliest if likely else drawn(_generator("levels"))
    begun = exact(SPACE)
    images, indices = visited(SPACE, rule, begun=begun)
    assert float((images[0] - begun.x).square().mean().sqrt()) > 0.4
    assert min(fits(SPACE, images, indices)) > 0.01
    for drift in (0.0, 2.0):
        assert fits(SPACE, *visited(SPACE, rule, begun=begun, drift=drift))[1] < 1e-6
