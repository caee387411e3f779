"""Many victims attacked at once, each with weights and an update of its own, by ``torch.func``."""

from __future__ import annotations

import time
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Generator, Hashable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap
from torch.func import grad as gradient_of
from torch.nn import functional

from adversary import labels as rules
from adversary.attack import Attack, check
from adversary.inversion.compiling import Compiled, compiler_problems, pays
from adversary.inversion.compiling import compiled as compile_step
from adversary.inversion.distance import Cosine, Distance, Euclidean
from adversary.inversion.inversion import Inversion
from adversary.inversion.optimiser import Adam, SignAdam
from adversary.inversion.prior import Prior, TotalVariation
from adversary.inversion.problem import InversionProblem
from adversary.inversion.simulators.gradient import BoundGradient, SingleGradient
from adversary.inversion.solver import Attempt, Ended, Solution
from adversary.inversion.tracing import traced
from adversary.inversion.unfolded import unfolded
from fedsim.errors import FedsimError
from fedsim.protocol import Knowledge, Observation, Reconstruction

WORTH_TRACING = 100
"""Iterations after which writing down the step's operations once, a second or two, has paid for itself."""

Step = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Inputs [V, N, C, H, W] to the objectives' gradients, of the same shape, and the objectives [V]."""


@dataclass(frozen=True)
class Victim:
    """What ``Attack.reconstruct`` is given of one victim.

    Attributes:
        observations: of the victim, in the order of rounds.
        knowledge: what the threat model grants.
        seed: of all randomness in the attack on it.
    """

    observations: Sequence[Observation]
    knowledge: Knowledge
    seed: int


def reconstruct_many(
    attack: Attack, victims: Sequence[Victim], *, device: torch.device | str = "cpu", compiled: Compiled = "auto"
) -> list[Reconstruction]:
    """Attack many victims; those whose networks have the same layout at once, where the attack allows it.

    Every victim has its own starting points, restarts, early stop and best iterate, by the same rules as in
    ``attack.reconstruct``, whose result this is up to rounding. Rounding differs, as the kernels
    do; with ReLU and signed steps it grows, so that a long search ends at another point as good. Who
    else is in the batch has no influence beyond that. The seconds of a victim are its share of its batch's.

    Attacked at once are victims of an ``Inversion`` of a single observation by ``SingleGradient``, ``Cosine`` or
    ``Euclidean``, ``TotalVariation`` or no prior, ``Adam`` or ``SignAdam``, with labels recovered
    beforehand and no budget in seconds; others one after the other.

    Args:
        attack: the attack on all of them.
        victims: in any order; their networks may differ.
        device: where to compute.
        compiled: whether the step of a batch is compiled, where the attack goes on for long enough to be traced;
            by ``auto`` where that pays, see ``compiling.pays``. Needs a compiler, and a minute or more the first
            time that a layout is met; PyTorch caches the result on disk. Results differ by rounding.

    Returns:
        One reconstruction a victim, in the order of the victims.

    Raises:
        FedsimError: a victim does not meet the attack's needs, or a step is to be compiled and there is no compiler;
            nobody is attacked then.
    """
    for victim in victims:
        check(attack, victim.observations, victim.knowledge)
    found: dict[int, Reconstruction] = {}
    if isinstance(attack, Inversion) and not hindrances(attack):
        batches: dict[Hashable, list[tuple[int, InversionProblem]]] = defaultdict(list)
        for position, victim in enumerate(victims):
            if len(victim.observations) == 1:
                problem = attack.problem(victim.observations, victim.knowledge, seed=victim.seed, device=device)
                batches[_layout(problem)].append((position, problem))
        compiling = [_is_compiled(attack, [p for _, p in batch], compiled) for batch in batches.values()]
        if any(compiling) and (problems := compiler_problems(device)):
            raise FedsimError(" ".join(problems))
        for batch, so in zip(batches.values(), compiling, strict=True):
            began = time.monotonic()
            solutions = _solve(attack, [problem for _, problem in batch], compiled=so)
            seconds = (time.monotonic() - began) / len(batch)
            for (position, problem), solution in zip(batch, solutions, strict=True):
                result = attack.result(problem, solution, victims[position].observations[0])
                found[position] = replace(result, seconds=seconds)
    for position, victim in enumerate(victims):
        if position not in found:
            found[position] = attack.reconstruct(victim.observations, victim.knowledge, seed=victim.seed, device=device)
    return [found[position] for position in range(len(victims))]


def _is_compiled(attack: Inversion, problems: Sequence[InversionProblem], compiled: Compiled) -> bool:
    if compiled != "auto":
        return compiled and attack.solver.iterations >= WORTH_TRACING
    parameters = sum(tensor.numel() for tensor in _bound(problems[0]).weights.parameters.values())
    return pays(parameters, len(problems) * attack.solver.iterations * attack.solver.restarts)


def hindrances(attack: Attack) -> list[str]:
    """Which parts of an attack work on one victim at a time only, each as a sentence with a remedy; none if none do."""
    one_by_one = "or attack one by one: leave out at_once and compiled"
    if not isinstance(attack, Inversion):
        return [
            "Attacked at once are the victims of attacks put together as an Inversion, but this is of type "
            f"{type(attack).__name__}. Choose inverting_gradients, {one_by_one}."
        ]
    parts: dict[str, tuple[object, tuple[type, ...]]] = {
        "simulator": (attack.simulator, (SingleGradient,)),
        "distance": (attack.distance, (Cosine, Euclidean)),
        "prior": (attack.prior, (type(None), TotalVariation)),
        "optimiser": (attack.optimiser, (Adam, SignAdam)),
    }
    problems = [
        f"Its {name}, {type(part).__name__}, works on one victim at a time. Choose an attack whose {name} is "
        f"{' or '.join(kind.__name__ for kind in kinds if kind is not type(None))}, {one_by_one}."
        for name, (part, kinds) in parts.items()
        if type(part) not in kinds
    ]
    if attack.labels is rules.optimised:
        problems.append(f"It searches for labels along with the images. Choose another rule for labels, {one_by_one}.")
    if attack.group != 1:
        problems.append(
            f"It searches from {attack.group} starting points together. Choose another attack, {one_by_one}."
        )
    if attack.solver.seconds is not None:
        problems.append(
            f"Its budget of {attack.solver.seconds} seconds is a single victim's. Leave out seconds, {one_by_one}."
        )
    return problems


def _solve(attack: Inversion, problems: Sequence[InversionProblem], *, compiled: bool) -> list[Solution]:
    """The solution of each problem; an attempt of each is under way at any time until its search is over."""
    optimiser = attack.optimiser
    if not isinstance(optimiser, Adam):
        raise TypeError("a batch is searched by Adam")
    lanes = [_Lane(problem, attack.solver.attempts(problem)) for problem in problems]
    for lane in lanes:
        lane.advance(optimiser.boxed)
    while running := [lane for lane in lanes if lane.solution is None]:
        _run(attack, optimiser, running, compiled=compiled)
    return [lane.solution for lane in lanes if lane.solution is not None]


@dataclass
class _Lane:
    """One victim's place in the batch.

    Attributes:
        problem: of the victim.
        attempts: its search.
        attempt: under way.
        steps: that the attempt has taken.
        solution: once the search is over.
        moments: of Adam, where the lane waits to be put into another batch.
    """

    problem: InversionProblem
    attempts: Generator[Attempt, None, Solution]
    attempt: Attempt = field(init=False)
    steps: int = 0
    solution: Solution | None = None
    moments: tuple[Tensor, Tensor] = field(init=False)

    def advance(self, boxed: bool) -> None:
        """Begin the next attempt, or put down the solution if there is none."""
        try:
            self.attempt = next(self.attempts)
        except StopIteration as over:
            self.solution = over.value
            return
        if boxed:
            self.problem.project(self.attempt.candidate)
        self.steps = 0
        self.moments = (torch.zeros_like(self.inputs), torch.zeros_like(self.inputs))

    def note(self, inputs: Tensor, loss: float, *, boxed: bool) -> bool:
        """Take down the objective at these inputs; whether the attempt goes on from them."""
        self.attempt.candidate.inputs = inputs
        try:
            self.attempt.note(loss)
        except Ended as ended:
            self.attempt.stopped_by = ended.reason
            self.advance(boxed)
            return False
        self.steps += 1
        return True

    @property
    def inputs(self) -> Tensor:
        return self.attempt.candidate.inputs.detach()


def _run(attack: Inversion, optimiser: Adam, lanes: Sequence[_Lane], *, compiled: bool) -> None:
    """Search until at most half of the lanes are running, or none if there is but one."""
    solver = attack.solver
    milestones = sorted(round(fraction * solver.iterations) for fraction in optimiser.decay_at)
    x = torch.stack([lane.inputs for lane in lanes])
    first, second = (torch.stack([lane.moments[i] for lane in lanes]) for i in (0, 1))
    least, most = _box([lane.problem for lane in lanes])
    step = _step(attack.distance, attack.prior, [lane.problem for lane in lanes])  # type: ignore[arg-type]
    if solver.iterations >= WORTH_TRACING:
        step = traced(step, x)
        if compiled:
            step = compile_step(step, x)
    running = len(lanes)
    # A narrower batch is cheaper by the iteration, but to be traced anew; to compile it anew does not pay.
    enough = 0 if compiled else len(lanes) // 2
    with torch.no_grad():
        while running > enough:
            gradient, losses = step(x)
            restarted = [
                i
                for i, (lane, own, loss) in enumerate(zip(lanes, x.unbind(), losses.tolist(), strict=True))
                if lane.solution is None and not lane.note(own, loss, boxed=optimiser.boxed)
            ]
            steps = [lane.steps for lane in lanes]
            x, first, second = _adam_step(optimiser, milestones, steps, x, first, second, gradient)
            if optimiser.boxed:
                x = x.clamp(least, most)
            for i in restarted:
                x[i] = lanes[i].inputs
                first[i] = second[i] = 0
            running = sum(lane.solution is None for lane in lanes)
    for i, lane in enumerate(lanes):
        lane.attempt.candidate.inputs = x[i]
        lane.moments = (first[i], second[i])


def _adam_step(
    optimiser: Adam,
    milestones: Sequence[int],
    steps: Sequence[int],
    x: Tensor,
    first: Tensor,
    second: Tensor,
    gradient: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Adam (Kingma, Ba 2015, algorithm 1) with each lane's own t and step size: the new x and moments."""
    if optimiser.signed:
        gradient = gradient.sign()
    t = [max(1, step) for step in steps]
    rates = [optimiser.learning_rate * optimiser.decay ** bisect_right(milestones, step - 1) for step in t]
    first = first.lerp(gradient, 1 - 0.9)
    second = (second * 0.999).addcmul_(gradient, gradient, value=1 - 0.999)
    scale = _each(x, [rate / (1 - 0.9**step) for rate, step in zip(rates, t, strict=True)])
    root = _each(x, [(1 - 0.999**step) ** 0.5 for step in t])
    return x - scale * first / (second.sqrt().div_(root).add_(1e-8)), first, second


def _each(like: Tensor, values: Sequence[float]) -> Tensor:
    return torch.tensor(values, dtype=like.dtype, device=like.device).view(-1, *[1] * (like.ndim - 1))


def _step(distance: Distance, prior: Prior | None, problems: Sequence[InversionProblem]) -> Step:
    """Objectives and their gradients, all victims' at once."""
    simulations = [_bound(problem) for problem in problems]
    network = unfolded(simulations[0].network, torch.zeros_like(problems[0].start(0).inputs))
    parameters = {
        name: torch.stack([s.weights.parameters[name].detach() for s in simulations])
        for name in simulations[0].weights.parameters
    }
    buffers = {
        name: torch.stack([s.weights.buffers[name] for s in simulations]) for name in simulations[0].weights.buffers
    }
    # One long vector a victim: few large operations in place of many small ones. To both distances it is the same.
    target = torch.stack([_vector(s.target) for s in simulations])
    labels = torch.stack([problem.labels for problem in problems if problem.labels is not None])
    mean, std = (
        torch.stack([torch.tensor(getattr(p.knowledge, name)).view(1, -1, 1, 1) for p in problems]).to(labels.device)
        for name in ("mean", "std")
    )

    def objective(
        x: Tensor,
        parameters: dict[str, Tensor],
        buffers: dict[str, Tensor],
        target: Tensor,
        y: Tensor,
        channels: tuple[Tensor, Tensor],
    ) -> Tensor:
        def loss(weights: dict[str, Tensor]) -> Tensor:
            # In train mode batch norm updates its running statistics: copies of them.
            own = {name: tensor.clone() for name, tensor in buffers.items()} if network.training else buffers
            return functional.cross_entropy(functional_call(network, {**weights, **own}, (x,)), y)

        simulated = gradient_of(loss)(parameters)
        value = distance([_vector(list(simulated.values()))], [target])
        return value if prior is None else value + prior(x * channels[1] + channels[0])

    together = vmap(grad_and_value(objective))
    return lambda x: together(x, parameters, buffers, target, labels, (mean, std))


def _vector(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([tensor.flatten() for tensor in tensors])


def _box(problems: Sequence[InversionProblem]) -> tuple[Tensor, Tensor]:
    """What black and white become by each victim's normalisation, each [V, 1, C, 1, 1]."""
    black_and_white = torch.tensor([0.0, 1.0]).view(2, 1, 1, 1)
    valid = torch.stack([p.knowledge.normalise(black_and_white) for p in problems]).to(problems[0].device)
    return valid[:, :1], valid[:, 1:]


def _bound(problem: InversionProblem) -> BoundGradient:
    (simulation,) = problem.simulations
    if not isinstance(simulation, BoundGradient):
        raise TypeError("a batch is made of single gradients")
    return simulation


def _layout(problem: InversionProblem) -> Hashable:
    """What victims attacked at once have in common: everything but the values of tensors."""
    bound = _bound(problem)
    modules = tuple((name, type(m), _settings(m)) for name, m in bound.network.named_modules())
    tensors = tuple((name, t.shape, t.dtype) for name, t in bound.network.state_dict().items())
    return modules, tensors, problem.examples, tuple(problem.knowledge.input_shape)


def _settings(module: nn.Module) -> str:
    # Attributes that print no two ways, such as functions, keep victims apart: slower, never wrong.
    return repr(sorted((name, repr(value)) for name, value in vars(module).items() if not name.startswith("_")))
