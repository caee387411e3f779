"""What each way to a Shapley value costs and how far it is off: ``python -m experiments.reproduce.shapley_cost``.

LeNet on Fashion-MNIST by FedAvg, skewed shards, all clients in every round. After some rounds, each of the next
ones is a game over that round's real updates, worth minus the loss on 1,000 held-out images. Every coalition
of a game is evaluated once; the methods then look their coalitions up, and what they would have evaluated is
counted, so that each sampled one can be repeated with many seeds.
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch
from rich.console import Console
from scipy.stats import spearmanr

from experiments.experiment import Experiment
from experiments.reproduce.shapley_page import DRAWN, METHODS, NAME, TIMED, draw, page
from fedsim.arrays import to_record
from fedsim.protocol import Arrays, Observation
from server import HonestButCurious, federate
from server.contribution import ESTIMATORS, Remembered, Update, Validator, Values, exact, multi_round, one_round

CONSOLE = Console()
PARTITIONS: dict[str, dict[str, Any]] = {
    "dirichlet 0.5": {"name": "dirichlet", "alpha": 0.5},
    "dirichlet 0.1": {"name": "dirichlet", "alpha": 0.1},
    "3 mavericks": {"name": "mavericks", "mavericks": 3},
    "1 maverick": {"name": "mavericks", "mavericks": 1},
}
"""By what the pages call them; the first is played with every number of clients, the others with ten."""


@dataclass(frozen=True)
class Federation:
    """Whose rounds are games.

    Attributes:
        partition: one of ``PARTITIONS``.
        clients: how many play.
        seed: of the run.
    """

    partition: str
    clients: int
    seed: int


@dataclass(frozen=True)
class Game:
    """All coalitions of one round, or of several taken for one.

    Attributes:
        of: the federation.
        round: number of the round, or 0 for all of them as one.
        worth: of each coalition.
        seconds: that evaluating them took.
    """

    of: Federation
    round: int
    worth: Mapping[frozenset[int], float]
    seconds: float


def main() -> None:
    """Play all games that are not there yet, one after the other, and write tables and figure from what is there."""
    options = _options()
    torch.set_num_threads(1)
    logging.getLogger("flwr").setLevel(logging.ERROR)
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / f"{NAME}.jsonl"
    done = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
    for job in [*federations(options), *options.threads]:
        if job not in map(_job, done):
            started = time.monotonic()
            done += (new := records(job, options) if isinstance(job, Federation) else [timed(job, options)])
            with path.open("a") as lines:
                lines.writelines(json.dumps(record) + "\n" for record in new)
            CONSOLE.print(f"{job}: {time.monotonic() - started:.0f} s")
        (options.out / f"{NAME}.md").write_text(page(done, options))
        draw([r for r in done if r["partition"] == next(iter(PARTITIONS))], options.out / f"{NAME}.png")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("docs/results"), help="folder of the results")
    parser.add_argument("--clients", type=int, nargs="+", default=[5, 8, 10, 12], help="sizes of the federation")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each size")
    parser.add_argument("--rounds", type=int, default=2, help="rounds appraised of each run")
    parser.add_argument("--warm-up", type=int, default=3, help="rounds trained before")
    parser.add_argument("--draws", type=int, default=20, help="seeds of each sampled method, a game")
    parser.add_argument("--images", type=int, default=1_000, help="validation images")
    parser.add_argument("--threads", type=int, nargs="*", default=[1, 2], help="time exact values with so many")
    return parser.parse_args()


def _job(record: Mapping[str, Any]) -> Federation | int:
    """What a record came of: a federation, or timing with so many threads."""
    if record["method"] == TIMED:
        return int(record["threads"])
    return Federation(record["partition"], record["clients"], record["seed"])


def federations(options: argparse.Namespace) -> list[Federation]:
    """All that are played, the largest last."""
    first, *others = PARTITIONS
    sizes = [(first, size) for size in options.clients] + [(other, 10) for other in others if 10 in options.clients]
    jobs = [Federation(name, size, seed) for (name, size), seed in itertools.product(sizes, range(options.seeds))]
    return sorted(jobs, key=lambda job: (job.clients, job.seed))


def records(federation: Federation, options: argparse.Namespace) -> list[dict[str, Any]]:
    """What each method came to in a federation's games."""
    games = list(play(federation, options))
    found = [record for game in games if game.round for record in appraise(game, options.draws)]
    return found if games[-1].round else found + list(across_rounds(games))


def timed(threads: int, options: argparse.Namespace) -> dict[str, Any]:
    """Seconds that all coalitions of ten clients in a first round take with so many threads, the best of three."""
    torch.set_num_threads(threads)
    federation = Federation("3 mavericks", 10, 0)
    experiment, validator = _prepared(federation, options)
    before, updates, number = next(_rounds(experiment))
    seconds = [_evaluated(federation, number, validator, before, updates).seconds for _ in range(3)]
    torch.set_num_threads(1)
    return {
        "partition": federation.partition,
        "clients": federation.clients,
        "seed": federation.seed,
        "method": TIMED,
        "threads": threads,
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "images": options.images,
        "all_seconds": seconds,
        "seconds": min(seconds),
    }


def play(federation: Federation, options: argparse.Namespace) -> Iterator[Game]:
    """Train, evaluate every coalition of each round appraised, and at last of these rounds as one.

    The last only with the first partition.
    """
    experiment, validator = _prepared(federation, options)
    start: Arrays = {}
    rounds: list[dict[int, Update]] = []
    for before, updates, number in _rounds(experiment):
        if number > options.warm_up:
            start = start or before
            rounds.append(updates)
            yield _evaluated(federation, number, validator, before, updates)
    if federation.partition == next(iter(PARTITIONS)):
        yield _evaluated(federation, 0, validator, start, one_round(rounds))


def _prepared(federation: Federation, options: argparse.Namespace) -> tuple[Experiment, Validator]:
    experiment = Experiment.of(
        {
            "seed": federation.seed,
            "data": {
                "name": "fashion_mnist",
                "clients": federation.clients,
                "train_size": 600 * federation.clients,
                "test_size": options.images,
                "partition": PARTITIONS[federation.partition],
            },
            "model": {"name": "lenet"},
            "training": {"learning_rate": 0.5, "rounds": options.warm_up + options.rounds},
        }
    )
    data = experiment.data
    return experiment, Validator(experiment.model(), data.test, (data.mean, data.std))


def _rounds(experiment: Experiment) -> Iterator[tuple[Arrays, dict[int, Update], int]]:
    heard: list[Observation] = []
    strategy = HonestButCurious(experiment.strategy(), heard.append)
    for done in federate(
        strategy,
        experiment.grid(),
        to_record(experiment.model().state_dict()),
        rounds=experiment.config.training.rounds,
        train_config=experiment.plan.to_config(),
    ):
        if done.number:
            updates = {o.client: Update({k: o.received[k] - o.sent[k] for k in o.sent}, o.examples) for o in heard}
            yield heard[0].sent, updates, done.number
        heard.clear()


def _evaluated(
    federation: Federation, number: int, validator: Validator, before: Arrays, updates: dict[int, Update]
) -> Game:
    started = time.monotonic()
    remembered = Remembered(validator.utility(before, updates))
    exact(list(updates), remembered)
    return Game(federation, number, remembered.known, time.monotonic() - started)


def appraise(game: Game, draws: int) -> Iterator[dict[str, Any]]:
    """A record for each method of a single round, and each seed of the sampled ones."""
    players = sorted(frozenset().union(*game.worth))
    right = exact(players, game.worth.__getitem__)
    for method in METHODS:
        if method == "one_round":
            continue
        for seed in range(draws if method in DRAWN else 1):
            found = ESTIMATORS.create(method)(players, game.worth.__getitem__, seed=seed)
            yield _record(game, method, seed, found, right)


def across_rounds(games: Sequence[Game]) -> Iterator[dict[str, Any]]:
    """One-round reconstruction against the sum of the rounds' exact values."""
    *rounds, whole = games
    players = sorted(frozenset().union(*whole.worth))
    right = multi_round(exact(players, game.worth.__getitem__) for game in rounds)
    found = ESTIMATORS.create("one_round")(players, whole.worth.__getitem__, seed=0)
    yield _record(whole, "one_round", 0, found, right)


def _record(game: Game, method: str, seed: int, found: Values[int], right: Values[int]) -> dict[str, Any]:
    players = list(right.values)
    wanted = np.array([right.values[p] for p in players])
    got = np.array([found.values[p] for p in players])
    inside = [low <= right.values[p] <= high for p in players for low, high in [found.interval(p)]]
    ranks = spearmanr(wanted, got).statistic if np.ptp(got) else None
    return {
        "partition": game.of.partition,
        "clients": game.of.clients,
        "seed": game.of.seed,
        "round": game.round,
        "method": method,
        "draw": seed,
        "before": game.worth[frozenset()],
        "after": game.worth[frozenset(players)],
        "evaluations": found.evaluations,
        "of": right.evaluations,
        "permutations": found.permutations,
        "stopped_by": found.stopped_by,
        "error": float(np.linalg.norm(got - wanted) / np.linalg.norm(wanted)),
        "rank_correlation": None if ranks is None else float(ranks),
        "covered": mean(inside) if found.degrees else None,
        "seconds": game.seconds / len(game.worth) * found.evaluations,
        "exact": wanted.tolist(),
        "found": got.tolist(),
    }


if __name__ == "__main__":
    main()
