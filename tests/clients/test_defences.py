"""Each defence's mathematics, and the chain around a client of any Flower app."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from torch import Tensor

from clients.defences import DEFENCES, Defence, Memory, Site, defence_mod
from fedsim.arrays import from_record, to_record
from fedsim.engines.simulated import identify
from fedsim.errors import FedsimError
from fedsim.models import build
from fedsim.protocol import Kind, TrainingPlan

NOISES = ["gaussian_noise", "laplacian_noise"]


def site(state: RecordDict | None = None, round: int = 1, kind: Kind = "gradient") -> Site:
    state = RecordDict() if state is None else state
    return Site(seed=0, client=3, round=round, position=0, kind=kind, memory=Memory(state, "defence-0"))


def defend(name: str, update: dict[str, Tensor], *, at: Site | None = None, **parameters: Any) -> dict[str, Tensor]:
    return DEFENCES.create(name, **parameters).defend(update, at or site())  # type: ignore[attr-defined,no-any-return]


def update(seed: int = 0, scale: float = 1.0) -> dict[str, Tensor]:
    draws = torch.Generator().manual_seed(seed)
    return {
        "fc.weight": scale * torch.randn(40, 30, generator=draws),
        "fc.bias": scale * torch.randn(40, generator=draws),
        "out.weight": scale * torch.randn(10, 40, generator=draws),
    }


def flat(tensors: dict[str, Tensor]) -> Tensor:
    return torch.cat([tensor.flatten() for tensor in tensors.values()])


def test_clipping_shortens_to_the_norm_and_keeps_the_direction() -> None:
    u = update()
    clipped = defend("clipping", u, norm=2.5)
    assert float(flat(clipped).norm()) == pytest.approx(2.5, rel=1e-6)
    assert float(torch.cosine_similarity(flat(clipped), flat(u), dim=0)) == pytest.approx(1, abs=1e-6)


def test_clipping_leaves_a_short_update_alone_bit_for_bit() -> None:
    u = update(scale=1e-3)
    assert all(torch.equal(tensor, u[name]) for name, tensor in defend("clipping", u, norm=1.0).items())


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.9999])
def test_pruning_keeps_the_largest_entries_of_each_tensor(share: float) -> None:
    u = update()
    for name, sent in defend("pruning", u, share=share).items():
        kept = sent != 0
        assert int(kept.sum()) == max(1, u[name].numel() - round(share * u[name].numel()))
        assert torch.equal(sent[kept], u[name][kept])
        assert share == 0 or u[name][kept].abs().min() >= u[name][~kept].abs().max()


def test_with_error_feedback_nothing_is_lost_over_the_rounds() -> None:
    """Sum of what was sent, plus what is still kept, is the sum of the updates."""
    state = RecordDict()
    updates = [update(seed) for seed in range(20)]
    sent = [defend("pruning", u, at=site(state, round), share=0.8) for round, u in enumerate(updates, 1)]
    remainder = Memory(state, "defence-0").arrays()
    for name in updates[0]:
        total = torch.stack([u[name] for u in updates]).sum(0)
        found = torch.stack([s[name] for s in sent]).sum(0) + remainder[name]
        torch.testing.assert_close(found, total, rtol=0, atol=1e-5)
        assert all((s[name] == 0).float().mean() > 0.75 for s in sent)
        assert float(remainder[name].abs().max()) > 0.1


def test_without_error_feedback_pruning_remembers_nothing() -> None:
    state = RecordDict()
    defend("pruning", update(), at=site(state), share=0.8, error_feedback=False)
    assert not state


def test_a_diverged_update_does_not_spoil_what_pruning_keeps() -> None:
    state = RecordDict()
    defend("pruning", update(), at=site(state, 1), share=0.8)
    before = Memory(state, "defence-0").arrays()
    broken = {name: tensor * math.nan for name, tensor in update(1).items()}
    defend("pruning", broken, at=site(state, 2), share=0.8)
    after = Memory(state, "defence-0").arrays()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize(
    ("name", "parameters"), [("int8", {}), ("int8", {"bits": 3}), ("sparsification", {"share": 0.6})]
)
def test_the_mean_over_rounds_is_the_update(name: str, parameters: dict[str, Any]) -> None:
    """Unbiased: 2,000 draws come as near as their own standard error allows, in each entry."""
    u = {"w": torch.linspace(-1, 1, 21, dtype=torch.float64)}
    draws = torch.stack([defend(name, u, at=site(round=round), **parameters)["w"] for round in range(1, 2_001)])
    error = draws.std(0) / math.sqrt(len(draws))
    assert bool(((draws.mean(0) - u["w"]).abs() <= 4.5 * error + 1e-12).all())
    assert float(draws.std(0).max()) > 0


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_quantised_entries_are_whole_steps_next_to_the_true_ones(bits: int) -> None:
    levels = 2 ** (bits - 1) - 1
    u = update()
    for name, tensor in defend("int8", u, bits=bits).items():
        step = float(u[name].abs().max()) / levels
        whole = tensor.double() / step
        torch.testing.assert_close(whole, whole.round(), rtol=0, atol=1e-4)
        assert len(whole.round().unique()) <= 2 * levels + 1
        assert float((tensor - u[name]).abs().max()) <= step * (1 + 1e-5)


def test_sparsification_zeroes_the_share_that_it_says() -> None:
    u = {"w": torch.ones(100_000)}
    sent = defend("sparsification", u, share=0.7)["w"]
    assert float((sent == 0).float().mean()) == pytest.approx(0.7, abs=0.007)  # 4.8 standard deviations
    assert sent[sent != 0].unique().tolist() == pytest.approx([1 / 0.3])
    plain = defend("sparsification", u, share=0.7, unbiased=False)["w"]
    assert plain.unique().tolist() == [0, 1]


@pytest.mark.parametrize(("name", "kurtosis"), [("gaussian_noise", 3.0), ("laplacian_noise", 6.0)])
def test_noise_has_the_variance_and_the_tails_it_should(name: str, kurtosis: float) -> None:
    u = {"w": torch.zeros(400_000, dtype=torch.float64)}
    noise = defend(name, u, standard_deviation=0.3)["w"]
    assert float(noise.mean()) == pytest.approx(0, abs=0.3 * 5 / math.sqrt(400_000))
    assert float(noise.var()) == pytest.approx(0.09, rel=0.02)
    assert float(noise.pow(4).mean() / noise.var() ** 2) == pytest.approx(kurtosis, rel=0.05)


@pytest.mark.parametrize("name", NOISES)
def test_noise_is_the_same_when_asked_again_and_other_in_the_next_round(name: str) -> None:
    u = update()
    one, again, other = (flat(defend(name, u, at=site(round=n), standard_deviation=0.1)) for n in (1, 1, 2))
    assert torch.equal(one, again)
    assert abs(float(torch.corrcoef(torch.stack([one - flat(u), other - flat(u)]))[0, 1])) < 0.12
    assert len({float(x) for x in one - flat(u)}) > 1_500  # tensors do not share their draws


@pytest.mark.parametrize(("format", "to"), [("float16", torch.float16), ("bfloat16", torch.bfloat16)])
def test_half_precision_is_torchs(format: str, to: torch.dtype) -> None:
    u = update()
    for name, tensor in defend("half_precision", u, format=format).items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, u[name].to(to).float())


def test_half_precision_saturates_but_hides_no_infinity() -> None:
    found = defend("half_precision", {"w": torch.tensor([1e6, -1e6, math.inf, -math.inf])})["w"]
    assert found.tolist() == [65504, -65504, math.inf, -math.inf]


def test_withholding_sends_zeros_for_the_layers_named_and_nothing_else_changes() -> None:
    u = update()
    for layers, gone in ((["fc"], {"fc.weight", "fc.bias"}), (["*.weight"], {"fc.weight", "out.weight"})):
        found = defend("withholding", u, layers=layers)
        assert {name for name, tensor in found.items() if not tensor.any()} == gone
        assert all(found[name] is u[name] for name in u if name not in gone)


def test_withholding_a_layer_that_is_not_there_names_the_nearest() -> None:
    network = build("lenet", (1, 28, 28), 10)
    layer = next(name for name in network.state_dict()).rpartition(".")[0]
    with pytest.raises(FedsimError, match=rf"withholding: layers = '{layer}x'.*{layer}"):
        DEFENCES.create("withholding", layers=[f"{layer}x"]).check(network, TrainingPlan())  # type: ignore[attr-defined]


EVERY_UPDATE_DEFENCE = {
    "clipping": {"norm": 1.0},
    "gaussian_noise": {"standard_deviation": 0.1},
    "half_precision": {},
    "int8": {},
    "laplacian_noise": {"standard_deviation": 0.1},
    "pruning": {"share": 0.5},
    "sparsification": {"share": 0.0},
    "withholding": {"layers": ["fc"]},
}


@pytest.mark.parametrize(("name", "parameters"), EVERY_UPDATE_DEFENCE.items())
def test_nan_goes_through_as_nan(name: str, parameters: dict[str, Any]) -> None:
    """What has diverged must not leave a client as if it were sound."""
    u = update()
    u["out.weight"][2, 3] = math.nan
    assert bool(defend(name, u, **parameters)["out.weight"][2, 3].isnan())


WRONG = [
    ("clipping", {"norm": 0.0}, "norm = 0.0"),
    ("clipping", {}, "'norm' is missing"),
    ("gaussian_noise", {"standard_deviation": -1.0}, "standard_deviation = -1.0"),
    ("laplacian_noise", {"standard_deviation": math.inf}, "standard_deviation = inf"),
    ("int8", {"bits": 9}, "bits = 9"),
    ("pruning", {"share": 1.0}, "share = 1.0"),
    ("pruning", {"shaer": 0.5}, "Did you mean 'share'"),
    ("sparsification", {"share": -0.1}, "share = -0.1"),
    ("half_precision", {"format": "float8"}, "format = 'float8'"),
    ("withholding", {"layers": []}, "withholds nothing"),
]


@pytest.mark.parametrize(("name", "parameters", "words"), WRONG)
def test_what_cannot_be_is_refused_by_name_and_value(name: str, parameters: dict[str, Any], words: str) -> None:
    with pytest.raises(FedsimError, match=words):
        DEFENCES.create(name, **parameters)


def answer(
    chain: Sequence[Defence],
    returned: dict[str, Tensor],
    sent: dict[str, Tensor],
    *,
    kind: str | None = None,
    buffers: Sequence[str] = (),
    message_type: str = "train",
) -> RecordDict:
    """What a Flower app of somebody else's answers through the mod."""
    identify()
    config = ConfigRecord({"server-round": 4})
    content = RecordDict({"weights": to_record(sent), "settings": config})
    message = Message(content, 11, message_type, group_id="4")
    reply = RecordDict({"weights": to_record(returned), "numbers": MetricRecord({"num-examples": 8})})
    if kind is not None:
        reply["client"] = ConfigRecord({"kind": kind})
    mod = defence_mod(chain, 0, buffers=buffers)
    context = Context(1, 11, {}, RecordDict(), {})
    return mod(message, context, lambda m, _: Message(reply, reply_to=m)).content


def arrays(content: RecordDict) -> dict[str, Tensor]:
    record = content["weights"]
    assert isinstance(record, ArrayRecord)
    return from_record(record)


def test_the_mod_defends_the_difference_of_models_and_the_gradient_itself() -> None:
    sent, u = update(1, scale=5.0), update(2)
    trained = {name: sent[name] + u[name] for name in sent}
    chain = [DEFENCES.create("clipping", norm=0.5)]
    found = arrays(answer(chain, trained, sent))
    assert float((flat(found) - flat(sent)).norm()) == pytest.approx(0.5, rel=1e-4)
    as_gradient = arrays(answer(chain, u, sent, kind="gradient"))
    assert float(flat(as_gradient).norm()) == pytest.approx(0.5, rel=1e-6)
    assert list(as_gradient) == list(u)


def test_the_chain_works_in_its_order() -> None:
    u, nothing = update(), {name: torch.zeros_like(tensor) for name, tensor in update().items()}
    clip, noise = DEFENCES.create("clipping", norm=1.0), DEFENCES.create("gaussian_noise", standard_deviation=0.1)
    noise_last = flat(arrays(answer([clip, noise], u, nothing, kind="gradient")))
    noise_first = flat(arrays(answer([noise, clip], u, nothing, kind="gradient")))
    assert float(noise_first.norm()) == pytest.approx(1, rel=1e-6)
    # |clipped + noise|^2 is 1 + n sigma^2 in the mean; n = 1,640.
    assert float(noise_last.square().sum()) == pytest.approx(1 + 1_640 * 0.01, rel=0.15)


def test_the_same_defence_twice_draws_twice() -> None:
    nothing = {name: torch.zeros_like(tensor) for name, tensor in update().items()}
    noise = DEFENCES.create("gaussian_noise", standard_deviation=0.1)
    once = flat(arrays(answer([noise], nothing, nothing, kind="gradient")))
    twice = flat(arrays(answer([noise, noise], nothing, nothing, kind="gradient")))
    assert float(twice.var() / once.var()) == pytest.approx(2, rel=0.2)


def test_buffers_and_whole_numbers_are_left_alone() -> None:
    sent = {"w": torch.zeros(50), "running_mean": torch.ones(50), "batches": torch.tensor(3)}
    back = {"w": torch.ones(50), "running_mean": torch.full((50,), 0.1), "batches": torch.tensor(4)}
    noise = DEFENCES.create("gaussian_noise", standard_deviation=0.1)
    found = arrays(answer([noise], back, sent, buffers=["running_mean", "batches"]))
    assert not torch.equal(found["w"], back["w"])
    assert torch.equal(found["running_mean"], back["running_mean"])
    assert int(found["batches"]) == 4
    gone = arrays(answer([DEFENCES.create("withholding", layers=["running_*"])], back, sent, buffers=["running_mean"]))
    assert torch.equal(gone["running_mean"], sent["running_mean"])
    assert torch.equal(gone["w"], back["w"])


def test_evaluation_passes_by() -> None:
    u = update()
    noise = DEFENCES.create("gaussian_noise", standard_deviation=0.1)
    assert torch.equal(flat(arrays(answer([noise], u, u, message_type="evaluate"))), flat(u))


def test_a_message_without_its_round_is_refused() -> None:
    identify()
    message = Message(RecordDict({"weights": to_record(update())}), 11, "train", group_id="4")
    with pytest.raises(FedsimError, match="'server-round'"):
        defence_mod([], 0)(message, Context(1, 11, {}, RecordDict(), {}), lambda m, _: m)
