"""The adversary that knows the defences: what it reads off an update, and that it is worth it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import RecordDict
from overheard import Victim, clothes, overhear_gradient, overhear_model, psnr
from torch.nn import functional

from adversary import ATTACKS, adaptive
from adversary.defended import View, view
from adversary.inversion import Candidate, Inversion
from clients.defences import DEFENCES, Memory, Site, TrainingDefence
from experiments import Experiment, run
from experiments.attacking import attack_run
from fedsim.errors import FedsimError
from fedsim.protocol import DeclaredDefence, TrainingPlan

Chain = list[tuple[str, dict[str, Any]]]


def defended(victim: Victim, chain: Chain) -> Victim:
    """The victim's gradient as the defences let it out, and an adversary that is told of them."""
    update = dict(victim.observation.received)
    for position, (name, parameters) in enumerate(chain):
        site = Site(0, 0, 1, position, "gradient", Memory(RecordDict(), f"defence-{position}"))
        defence = DEFENCES.create(name, **parameters)
        if isinstance(defence, TrainingDefence):
            network = victim.knowledge.model().eval()
            rule = defence.step(site)
            found, _ = rule(network, victim.images, victim.labels, examples=50, loss=functional.cross_entropy)
            update = {name: g for name, g in zip(update, found, strict=True) if g is not None}
        else:
            update = defence.defend(update, site)  # type: ignore[attr-defined]
    declared = tuple(DeclaredDefence(name, DEFENCES.parameters(name) | given) for name, given in chain)
    return replace(
        victim,
        observation=replace(victim.observation, received=update),
        knowledge=replace(victim.knowledge, defences=declared),
    )


def seen(victim: Victim) -> View:
    assert victim.knowledge.defences is not None
    return view(victim.observation, victim.knowledge.model(), victim.knowledge.defences)


def of_one(model: str = "cnn") -> Victim:
    return overhear_gradient(*clothes([2]), model=model, seed=5)


EXACT: list[Chain] = [
    [("pruning", {"share": 0.7})],
    [("sparsification", {"share": 0.7})],
    [("sparsification", {"share": 0.7, "unbiased": False})],
    [("clipping", {"norm": 0.05})],
    [("withholding", {"layers": ["0", "4.bias"]})],
    [("soteria", {"share": 0.5})],
    [("withholding", {"layers": ["2"]}), ("clipping", {"norm": 0.05}), ("pruning", {"share": 0.5})],
]


@pytest.mark.parametrize("chain", EXACT, ids=lambda chain: "+".join(name for name, _ in chain))
def test_the_true_images_explain_the_update_to_who_knows_the_defence(chain: Chain) -> None:
    """Of one example the informed objective without its prior is zero at the truth; the blind one is not."""
    victim = defended(of_one(), chain)
    attack = ATTACKS.create("adaptive", attack="dlg")
    assert isinstance(attack, adaptive.Adaptive)
    informed = attack.informed([victim.observation], victim.knowledge)
    assert informed is not None
    assert objective(replace(informed, prior=None), victim) < 1e-6
    assert objective(attack.blind, victim) > 0.01


def objective(attack: Inversion, victim: Victim) -> float:
    problem = attack.problem([victim.observation], victim.knowledge, seed=0)
    truth = Candidate(victim.knowledge.normalise(victim.images))
    return float(replace(problem, labels=victim.labels).objective(truth).detach())


def test_of_pruned_entries_those_that_must_be_zero_still_tell() -> None:
    """Where fewer entries are left than pruning sends, all others were zero before."""
    victim = of_one()
    zeros = {name: float((g == 0).float().mean()) for name, g in victim.observation.received.items()}
    assert max(zeros.values()) > 0.3  # ReLU
    read = seen(defended(victim, [("pruning", {"share": 0.3})]))
    for name, share in zeros.items():
        whole = bool(read.told[name].all())
        assert whole == (share > 0.3), name
    followed = seen(defended(victim, [("pruning", {"share": 0.3}), ("int8", {})]))
    assert not any(bool(told.all()) for name, told in followed.told.items() if zeros[name] > 0)


def test_what_pruning_left_out_is_known_to_be_small() -> None:
    """An image of larger gradients where nothing was sent is no explanation; in later rounds it may be one."""
    victim = defended(of_one(), [("pruning", {"share": 0.9})])
    attack = ATTACKS.create("adaptive", attack="dlg")
    for round, bounded in ((1, True), (2, False)):
        observation = replace(victim.observation, round=round)
        informed = attack.informed([observation], victim.knowledge)  # type: ignore[attr-defined]
        (simulate,) = informed.problem([observation], victim.knowledge, seed=0).simulations
        found = simulate(1 - victim.images, victim.labels)
        beyond = sum(float(s[~m].detach().abs().sum()) for s, m in zip(found, simulate.told, strict=True))
        assert (beyond > 0) == bounded


def test_an_update_that_was_not_clipped_keeps_its_scale() -> None:
    assert seen(defended(of_one(), [("clipping", {"norm": 1e3})])).plain
    assert not seen(defended(of_one(), [("clipping", {"norm": 1e-3})])).scaled


@pytest.mark.parametrize("name", ["gaussian_noise", "laplacian_noise"])
def test_the_share_of_noise_is_estimated_from_what_was_sent(name: str) -> None:
    victim = of_one()
    clean = torch.cat([g.flatten() for g in victim.observation.received.values()])
    deviation = 0.02
    read = seen(defended(victim, [(name, {"standard_deviation": deviation})]))
    noise = len(clean) * deviation**2
    assert read.share_of_noise == pytest.approx(noise / (noise + float(clean.square().sum())), rel=0.05)


@pytest.mark.parametrize("algorithm", ["gradient", "model"])
def test_the_noise_of_dp_sgd_is_estimated_for_gradients_and_for_models(algorithm: str) -> None:
    """Clipped to nearly nothing an update is its noise alone."""
    declared = (DeclaredDefence("dp_sgd", {"norm": 1e-9, "noise_multiplier": 1e6}),)
    images, labels = clothes([2, 3, 4, 5])
    plan = TrainingPlan(batch_size=2, local_epochs=2, learning_rate=0.1, mode="eval")
    victim = overhear_model(images, labels, plan) if algorithm == "model" else overhear_gradient(images, labels)
    network = victim.knowledge.model().train()
    rule = DEFENCES.create("dp_sgd", norm=1e-9, noise_multiplier=1e6).step(  # type: ignore[attr-defined]
        Site(0, 0, 1, 0, "model", Memory(RecordDict(), "defence-0"))
    )
    names = [name for name, _ in network.named_parameters()]
    if algorithm == "gradient":
        found, _ = rule(network, images, labels, examples=4, loss=functional.cross_entropy)
        received = dict(zip(names, found, strict=True))
    else:
        total = [torch.zeros_like(p) for p in network.parameters()]
        for start in (0, 2, 0, 2):
            batch = slice(start, start + 2)
            found, _ = rule(network, images[batch], labels[batch], examples=4, loss=functional.cross_entropy)
            total = [t + 0.1 * g for t, g in zip(total, found, strict=True)]
        received = {n: victim.observation.sent[n] - t for n, t in zip(names, total, strict=True)}
    observation = replace(victim.observation, received=dict(victim.observation.received) | received)
    noise = torch.cat([u.flatten() for u in observation.update(names)])
    assert view(observation, network, declared).noise == pytest.approx(float(noise.std()), rel=0.03)


def test_where_the_defence_tells_nothing_it_is_the_attack_itself_bit_for_bit() -> None:
    for chain in ([], [("int8", {})], [("half_precision", {})]):
        victim = defended(of_one("lenet"), chain)  # type: ignore[arg-type]
        found, plain = (
            ATTACKS.create(name, iterations=40).reconstruct([victim.observation], victim.knowledge, seed=3)
            for name in ("adaptive", "inverting_gradients")
        )
        assert torch.equal(found.images, plain.images)
        assert found.iterations == plain.iterations


def test_labels_are_searched_for_where_the_layer_that_tells_them_is_withheld() -> None:
    victim = of_one()
    last = list(victim.observation.received)[-1].rpartition(".")[0]
    attack = ATTACKS.create("adaptive", attack="inverting_gradients", iterations=150)
    for layers in ([last], [f"{last}.bias"]):
        hidden = defended(victim, [("withholding", {"layers": layers})])
        informed = attack.informed([hidden.observation], hidden.knowledge)  # type: ignore[attr-defined]
        problem = informed.problem([hidden.observation], hidden.knowledge, seed=0)
        assert (problem.labels is None) == (layers == [last])
        if problem.labels is not None:
            assert problem.labels.tolist() == victim.labels.tolist()


@pytest.mark.parametrize(
    ("chain", "gain"),
    [
        ([("pruning", {"share": 0.95})], 5),
        ([("pruning", {"share": 0.99})], 2),
        ([("gaussian_noise", {"standard_deviation": 0.01})], 2),
        ([("soteria", {"share": 0.6})], 10),
    ],
    ids=["pruning", "hard pruning", "gaussian_noise", "soteria"],
)
def test_who_knows_the_defence_sees_more_of_a_real_image(chain: Chain, gain: float) -> None:
    """In decibels; and what is kept explains what was sent at least as well as the blind attack's find."""
    victim = defended(of_one(), chain)
    attack = ATTACKS.create("adaptive", iterations=250)
    found = attack.reconstruct([victim.observation], victim.knowledge, seed=0)
    blind = attack.blind.reconstruct([victim.observation], victim.knowledge, seed=0)  # type: ignore[attr-defined]
    assert psnr(found.images, victim.images) > psnr(blind.images, victim.images) + gain
    assert found.iterations == 500


def test_what_the_blind_attack_found_is_kept_where_it_explains_more() -> None:
    """With few steps for the one who knows and many for the one who does not."""
    victim = defended(of_one(), [("withholding", {"layers": ["0"]})])
    attack = ATTACKS.create("adaptive", iterations=200)
    assert isinstance(attack, adaptive.Adaptive)
    blind = attack.blind.reconstruct([victim.observation], victim.knowledge, seed=0)

    class Hasty(adaptive.Adaptive):
        def informed(self, observations: Any, knowledge: Any) -> Inversion | None:
            informed = super().informed(observations, knowledge)
            return informed and replace(informed, solver=replace(informed.solver, iterations=2))

    found = Hasty(attack.blind).reconstruct([victim.observation], victim.knowledge, seed=0)
    assert torch.equal(found.images, blind.images)
    assert found.iterations == 202


@pytest.mark.parametrize("share", [0.5, 0.9])
def test_labels_survive_sparsification_in_the_rows_of_the_last_layer(share: float) -> None:
    """Each label of ten victims, where who does not know of it takes the bias's gaps for zeros."""
    attack = ATTACKS.create("adaptive", iterations=1)
    right = {"blind": 0, "informed": 0}
    for position in range(10):
        victim = defended(
            overhear_gradient(*clothes([position]), model="cnn", seed=position),
            [("clipping", {"norm": 1e6}), ("sparsification", {"share": share})],
        )
        informed = attack.informed([victim.observation], victim.knowledge)  # type: ignore[attr-defined]
        for name, one in (("blind", attack.blind), ("informed", informed)):  # type: ignore[attr-defined]
            labels = one.problem([victim.observation], victim.knowledge, seed=0).labels
            right[name] += labels.tolist() == victim.labels.tolist()
    assert right["informed"] == 10
    assert right["blind"] < 10


def test_without_the_grant_and_for_other_attacks_it_is_refused() -> None:
    victim = of_one()
    with pytest.raises(FedsimError, match=r"needs to know the defences.*Grant 'defences'"):
        ATTACKS.create("adaptive").reconstruct([victim.observation], victim.knowledge, seed=0)
    with pytest.raises(FedsimError, match="'adaptive' cannot be adaptive"):
        ATTACKS.create("adaptive", attack="adaptive")
    with pytest.raises(FedsimError, match=r"iteration = 3: no such parameter. Did you mean 'iterations'"):
        ATTACKS.create("adaptive", iteration=3)


@pytest.mark.parametrize("attack", ["agic", "sme", "simulation", "midas", "fedavg_leakage", "gradinversion"])
def test_attacks_on_updates_of_many_steps_can_know_too(attack: str) -> None:
    """Whatever their simulators want beside images: an unknown, copies, targets set anew, a group."""
    images, labels = clothes([1, 0])
    plan = TrainingPlan(batch_size=None, local_epochs=3, learning_rate=0.05, mode="eval")
    victim = overhear_model(images, labels, plan)
    sent, received = victim.observation.sent, victim.observation.received
    first = next(iter(sent))
    declared = (DeclaredDefence("withholding", {"layers": [first]}),)
    victim = replace(
        victim,
        observation=replace(victim.observation, received=received | {first: sent[first]}),
        knowledge=replace(victim.knowledge, defences=declared),
    )
    made = ATTACKS.create("adaptive", attack=attack, iterations=12)
    found = made.reconstruct([victim.observation], victim.knowledge, seed=0)
    assert found.images.shape == images.shape
    assert 0 <= found.loss < 2
    assert found.iterations >= 24


def test_it_is_granted_in_a_run_and_the_same_from_its_transcript(tmp_path: Path) -> None:
    table = {"name": "adaptive", "attack": "idlg", "iterations": 30, "restarts": 1, "rounds": ["last"], "lpips": False}
    one = Experiment.of(
        {
            "data": {"name": "fashion_mnist_small", "train_size": 60, "test_size": 20, "clients": 2},
            "model": {"name": "lenet"},
            "training": {"algorithm": "fedsgd", "rounds": 2, "batch_size": 1},
            "defences": [{"name": "pruning", "share": 0.5, "error_feedback": False}],
            "wiretap": {"record": True},
            "attacks": [table | {"grants": ["defences"]}],
        }
    )
    result = run(one, tmp_path / "run")
    parameters = ["attack=idlg", "iterations=30", "restarts=1", 'grants=["defences"]', "lpips=false"]
    again = attack_run(result.folder, "adaptive", parameters, rounds=[2], label="again")
    assert len(result.attacks) == 2
    assert all(record["iterations"] == 60 for record in result.attacks)
    assert [r["grants"] for r in again.records] == [["defences"]] * 2
    withheld = Experiment.of(one.config.model_dump(exclude_none=True) | {"attacks": [table]})
    with pytest.raises(FedsimError, match="Grant 'defences'"):
        run(withheld, tmp_path / "withheld")
