"""Denoising MCMC on mixtures whose scores and levels are known: what it leaves invariant, reaches, and costs."""

import math

import pytest
import torch
from gaussians import Mixture
from scipy.stats import kstest
from torch import Tensor

from fedsim import seeding
from fedsim.diffusion import Churn, Counted, heun, seeded_noise
from fedsim.diffusion.dmcmc import (
    Chains,
    Joint,
    LevelRule,
    Sampling,
    advance,
    drawn,
    gibbs,
    langevin,
    likeliest,
    lower,
    sample,
    start,
)
from fedsim.diffusion.levels import geometric, karras
from fedsim.errors import FedsimError

PLANE = Mixture(torch.tensor([[-1.5, 0.5], [1.5, 0.0], [0.0, -1.0]], dtype=torch.float64), 0.3)
LEVELS = geometric(30, 0.2, 2.0)
ETA = 0.05


def noise(name: str = "noise") -> object:
    return seeded_noise(seeding.generator(0, "test", "dmcmc", name))


def joint(*, drift: float = 1.0, rule: LevelRule | None = None) -> Joint:
    """The plane's density, exactly; a wrong one where the score is multiplied."""

    def denoise(y: Tensor, level: Tensor) -> Tensor:
        return y + drift * (PLANE.denoise(y, level) - y)

    return Joint(denoise, PLANE.log_levels(LEVELS), LEVELS, rule or drawn(seeding.generator(0, "test", "levels")))


def exact(count: int) -> Chains:
    """Chains that are where they should be."""
    k = torch.randint(len(LEVELS), (count,), generator=seeding.generator(0, "test", "exact", "levels"))
    return Chains(PLANE.draw(LEVELS[k], seeding.generator(0, "test", "exact")), LEVELS[k])


def fits(chains: Chains) -> tuple[float, float]:
    """The p-values of Kolmogorov and Smirnov, of the images' first coordinate and of the level's index, smeared."""
    index = (chains.level[:, None] == LEVELS).double().argmax(1)
    smeared = index + torch.rand(len(index), generator=seeding.generator(0, "test", "smear"), dtype=torch.float64)
    of_images = kstest(chains.x[:, 0].numpy(), PLANE.marginal(LEVELS)).pvalue
    return float(of_images), float(kstest(smeared.numpy() / len(LEVELS), "uniform").pvalue)


def moved(density: Joint, chains: Chains, steps: int) -> Chains:
    draws = noise("moves")
    for _ in range(steps):
        chains = advance(density, chains, ETA, draws)
    return chains


def test_the_chain_keeps_the_joint_density() -> None:
    before = exact(2000)
    after = moved(joint(), before, 60)
    assert float((after.x - before.x).norm(dim=1).mean()) > 1
    assert min(fits(after)) > 0.01


def test_a_step_without_its_half_breaks_it() -> None:
    images, levels = fits(moved(joint(drift=2.0), exact(2000), 60))
    assert images < 1e-3
    assert levels < 1e-9


def test_the_likeliest_level_breaks_it_in_few_dimensions() -> None:
    assert fits(moved(joint(rule=likeliest), exact(2000), 60))[1] < 1e-9


def test_the_chain_finds_the_other_modes() -> None:
    """All chains begin at one mode, at the lowest level."""
    begun = Chains(PLANE.modes[:1].expand(1000, 2), LEVELS[-1:].expand(1000))
    assert fits(moved(joint(), begun, 50))[0] < 1e-9
    assert min(fits(moved(joint(), begun, 600))) > 0.01


def test_the_integrator_takes_chains_to_the_data() -> None:
    chains, data = exact(2000), PLANE.marginal(torch.zeros(1, dtype=torch.float64))
    found = heun(PLANE.denoise, chains.x, karras(20, chains.level, 0.01))
    assert kstest(found[:, 0].numpy(), data).pvalue > 0.01
    last = sample(joint(), chains, Sampling(ETA, 10, 20, 0.01, 0.01, keep_lowest=False), noise())
    assert kstest(last.images[:, 0].numpy(), data).pvalue > 0.01
    wrong_levels = heun(PLANE.denoise, chains.x, karras(20, 2 * chains.level, 0.01))
    assert kstest(wrong_levels[:, 0].numpy(), data).pvalue < 1e-3


def test_keeping_the_lowest_state_is_not_right_in_distribution() -> None:
    """The published rule prefers images near which low levels are likely; the last state of each chain is right."""
    data, fit = PLANE.marginal(torch.zeros(1, dtype=torch.float64)), {}
    for keep in (True, False):
        how = Sampling(ETA, 30, 10, 0.01, 0.01, keep_lowest=keep)
        images = sample(joint(), exact(6000), how, noise()).images
        fit[keep] = kstest(images[:, 0].numpy(), data).pvalue
    assert fit[True] < 1e-3
    assert fit[False] > 0.01


@pytest.mark.parametrize(("skip", "levels"), [(1, 4), (5, 4), (10, 6)])
def test_calls_are_counted(skip: int, levels: int) -> None:
    density = joint()
    counted = Joint(Counted(density.denoise), Counted(density.classify), LEVELS, density.rule)
    how = Sampling(ETA, skip, levels)
    drawn_once = sample(counted, exact(3), how, noise())
    assert drawn_once.denoiser_calls == how.calls == skip + 2 * levels - 2 == counted.denoise.calls
    assert drawn_once.classifier_calls == skip == counted.classify.calls


def test_gibbs_agrees_with_the_densities() -> None:
    """The level's posterior against Bayes' rule with densities of torch.distributions, and draws against both."""
    y = PLANE.draw(LEVELS[:1].expand(5), seeding.generator(0, "test", "gibbs"))
    bayes = torch.softmax(torch.stack([PLANE.density_by_sum(y, float(level)) for level in LEVELS], 1), 1)
    assert torch.allclose(torch.softmax(PLANE.log_levels(LEVELS)(y), 1), bayes, atol=1e-12)
    repeated = gibbs(joint(), y[:1].expand(20_000, 2)).level
    shares = (repeated[:, None] == LEVELS).double().mean(0)
    assert float((shares - bayes[0]).abs().max()) < 5 * math.sqrt(0.25 / 20_000)
    assert torch.equal(gibbs(joint(rule=likeliest), y).level, LEVELS[bayes.argmax(1)])


def test_a_langevin_step_is_the_equation() -> None:
    chains, z = exact(4), torch.full((4, 2), 0.7, dtype=torch.float64)
    y = chains.x.clone().requires_grad_()
    logs = torch.stack([PLANE.density_by_sum(y[i : i + 1], float(chains.level[i])) for i in range(4)])
    (gradient,) = torch.autograd.grad(logs.sum(), y)
    found = langevin(PLANE.denoise, chains, 0.2, lambda like: z)
    assert torch.allclose(found.x, chains.x + 0.1 * gradient + math.sqrt(0.2) * z, atol=1e-12)
    assert torch.equal(found.level, chains.level)


def test_the_lowest_visited_state_is_denoised_and_the_chain_goes_on() -> None:
    first, second = exact(50), moved(joint(), exact(50), 3)
    both = lower(first, second)
    assert torch.equal(both.level, torch.minimum(first.level, second.level))
    for i in range(50):
        source = second if second.level[i] < first.level[i] else first
        assert torch.equal(both.x[i], source.x[i])
    how = Sampling(ETA, 3, 4, 0.01, 0.01)
    ended = sample(joint(), exact(50), how, noise("moves")).chains
    assert torch.equal(ended.x, second.x)
    assert torch.equal(ended.level, second.level)


@pytest.mark.parametrize(("level", "eta"), [(0.05, 0.05), (0.2, 0.05), (0.5, 0.1), (0.1, 0.02)])
def test_a_step_near_one_mode_raises_the_level_as_theory_says(level: float, eta: float) -> None:
    """``sigma^2 -> sigma^2 + eta^2 / (4 sigma^2)`` in high dimension."""
    point = Mixture(torch.zeros(1, 784, dtype=torch.float64), 1e-6)
    levels = geometric(500, 0.01, 50.0)
    begun = Chains(level * noise("point")(torch.zeros(50, 784).double()), torch.full((50,), level).double())
    density = Joint(point.denoise, point.log_levels(levels), levels)
    after = advance(density, begun, eta, noise())
    assert float(after.level.mean()) == pytest.approx(math.sqrt(level**2 + eta**2 / (4 * level**2)), rel=0.05)


def test_in_high_dimension_it_beats_the_integrator_from_pure_noise() -> None:
    """As many calls, 11, and closer to the data: the distance to the nearest mode, a pixel; at best 0.05."""
    modes = torch.rand(40, 500, generator=seeding.generator(0, "test", "modes"), dtype=torch.float64)
    crowd, levels = Mixture(modes, 0.05), geometric(200, 0.01, 50.0)
    density = Joint(crowd.denoise, crowd.log_levels(levels), levels)
    z = noise("start")(torch.zeros(20, 500).double())

    def error(images: Tensor) -> float:
        return float(crowd.squares(images).amin(1).mean() / 500) ** 0.5

    counted = Counted(crowd.denoise)
    integrated = heun(counted, 50 * z, karras(7, levels[:1].expand(20), 0.01))
    assert counted.calls == 11
    chains = start(density, z, noise(), lowest=0.01, deviation=0.5, churn=Churn(lowest=0.05, highest=1.0))
    warming = noise("warm")
    for _ in range(10):
        chains = advance(density, chains, 0.05, warming)
    found = sample(density, chains, Sampling(0.05, 5, 4, 0.01, 0.01), noise("run"))
    assert found.denoiser_calls == 11
    assert error(found.images) < 0.75 * error(integrated)


def test_chains_start_around_the_data() -> None:
    crowd = Mixture(torch.rand(5, 300, generator=seeding.generator(0, "test", "few"), dtype=torch.float64), 0.05)
    levels = geometric(200, 0.01, 50.0)
    density = Joint(crowd.denoise, crowd.log_levels(levels), levels)
    begun = start(
        density,
        noise()(torch.zeros(8, 300).double()),
        noise("churn"),
        lowest=0.01,
        deviation=0.5,
        churn=Churn(lowest=0.05, highest=1.0),
    )
    assert float(begun.level.mean()) == pytest.approx(0.5, rel=0.1)


def test_mistakes_are_explained() -> None:
    for wrong in ({"step_size": 0.0}, {"skip": 0}, {"lowest": -1.0}, {"last": math.nan}, {"levels": 2}):
        with pytest.raises(FedsimError, match=next(iter(wrong))):
            Sampling(**{"step_size": ETA, "skip": 1, "levels": 4} | wrong)  # type: ignore[arg-type]
    with pytest.raises(FedsimError, match="lowest"):
        sample(joint(), exact(2), Sampling(ETA, 1, 4, lowest=5.0), noise())
