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
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from rich.console import Console
from scipy.stats import spearmanr

from experiments.experiment import Experiment
from fedsim.arrays import to_record
from fedsim.protocol import Arrays, Observation
from server import HonestButCurious, federate
from server.contribution import ESTIMATORS, Remembered, Update, Validator, Values, exact, multi_round, one_round

NAME = "shapley-cost"
CONSOLE = Console()
DRAWN = ("gtg", "truncated_monte_carlo")
METHODS = ("exact", *DRAWN, "leave_one_out", "multi_round", "one_round")


@dataclass(frozen=True)
class Game:
    """All coalitions of one round, or of several taken for one.

    Attributes:
        clients: how many play.
        seed: of the run.
        round: number of the round, or 0 for all of them as one.
        worth: of each coalition.
        seconds: that evaluating them took.
    """

    clients: int
    seed: int
    round: int
    worth: Mapping[frozenset[int], float]
    seconds: float


def main() -> None:
    """Play all games, one after the other, and write table and figure from what is there."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("docs/results"), help="folder of the results")
    parser.add_argument("--clients", type=int, nargs="+", default=[5, 8, 10, 12], help="sizes of the federation")
    parser.add_argument("--seeds", type=int, default=2, help="runs of each size")
    parser.add_argument("--rounds", type=int, default=2, help="rounds appraised of each run")
    parser.add_argument("--warm-up", type=int, default=3, help="rounds trained before")
    parser.add_argument("--draws", type=int, default=20, help="seeds of each sampled method, a game")
    parser.add_argument("--images", type=int, default=1_000, help="validation images")
    options = parser.parse_args()
    torch.set_num_threads(1)
    logging.getLogger("flwr").setLevel(logging.ERROR)
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / f"{NAME}.jsonl"
    done = _read(path)
    for seed, size in itertools.product(range(options.seeds), options.clients):
        if not any((r["clients"], r["seed"]) == (size, seed) for r in done):
            games = list(play(size, seed, options))
            new = [record for game in games[:-1] for record in appraise(game, options.draws)]
            new += across_rounds(games)
            done += new
            with path.open("a") as lines:
                lines.writelines(json.dumps(record) + "\n" for record in new)
            CONSOLE.print(f"{size} clients, seed {seed}: {sum(game.seconds for game in games):.0f} s evaluating")
        (options.out / f"{NAME}.md").write_text(page(done, options))
        draw(done, options.out / f"{NAME}.png")


def play(size: int, seed: int, options: argparse.Namespace) -> Iterator[Game]:
    """Train, evaluate every coalition of each round appraised, and at last of these rounds as one."""
    experiment = Experiment.of(
        {
            "seed": seed,
            "data": {
                "name": "fashion_mnist",
                "clients": size,
                "train_size": 600 * size,
                "test_size": options.images,
                "partition": {"name": "dirichlet", "alpha": 0.5},
            },
            "model": {"name": "lenet"},
            "training": {"learning_rate": 0.5, "rounds": options.warm_up + options.rounds},
        }
    )
    validator = Validator(experiment.model(), experiment.data.test, (experiment.data.mean, experiment.data.std))
    start: Arrays = {}
    rounds: list[dict[int, Update]] = []
    for before, updates, number in _rounds(experiment):
        if number > options.warm_up:
            start = start or before
            rounds.append(updates)
            yield _evaluated(size, seed, number, validator, before, updates)
    yield _evaluated(size, seed, 0, validator, start, one_round(rounds))


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
    size: int, seed: int, number: int, validator: Validator, before: Arrays, updates: dict[int, Update]
) -> Game:
    started = time.monotonic()
    remembered = Remembered(validator.utility(before, updates))
    exact(list(updates), remembered)
    return Game(size, seed, number, remembered.known, time.monotonic() - started)


def appraise(game: Game, draws: int) -> Iterator[dict[str, Any]]:
    """A record for each method of a single round, and each seed of the sampled ones."""
    players = sorted(frozenset().union(*game.worth))
    right = exact(players, game.worth.__getitem__)
    for method in METHODS:
        if method == "one_round":
            continue
        for seed in range(draws if method in DRAWN else 1):
            found = ESTIMATORS.create(method)(players, game.worth.__getitem__, seed=seed)
            yield _record(game, method, seed, found, right, game.seconds / len(game.worth))


def across_rounds(games: Sequence[Game]) -> Iterator[dict[str, Any]]:
    """One-round reconstruction against the sum of the rounds' exact values."""
    *rounds, whole = games
    players = sorted(frozenset().union(*whole.worth))
    right = multi_round(exact(players, game.worth.__getitem__) for game in rounds)
    found = ESTIMATORS.create("one_round")(players, whole.worth.__getitem__, seed=0)
    yield _record(whole, "one_round", 0, found, right, whole.seconds / len(whole.worth))


def _record(
    game: Game, method: str, seed: int, found: Values[int], right: Values[int], seconds: float
) -> dict[str, Any]:
    players = list(right.values)
    wanted = np.array([right.values[p] for p in players])
    got = np.array([found.values[p] for p in players])
    inside = [low <= right.values[p] <= high for p in players for low, high in [found.interval(p)]]
    ranks = spearmanr(wanted, got).statistic if np.ptp(got) else None
    return {
        "clients": game.clients,
        "seed": game.seed,
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
        "seconds": seconds * found.evaluations,
        "exact": wanted.tolist(),
        "found": got.tolist(),
    }


def page(records: Sequence[Mapping[str, Any]], options: argparse.Namespace) -> str:
    """The table, a row a size and method."""
    rows = [
        "| clients | method | games | evaluations | of exact's | relative error | rank correlation | lowest "
        "| intervals hit | seconds |",
        "|" + " --- |" * 10,
    ]
    for size in sorted({r["clients"] for r in records}):
        for method in METHODS:
            own = [r for r in records if (r["clients"], r["method"]) == (size, method)]
            ranks = [r["rank_correlation"] for r in own if r["rank_correlation"] is not None]
            covered = [r["covered"] for r in own if r["covered"] is not None]
            rows.append(
                f"| {size} | `{method}` | {len({(r['seed'], r['round']) for r in own})} "
                f"| {median(r['evaluations'] for r in own):.0f} "
                f"| {median(r['evaluations'] / r['of'] for r in own):.0%} | {median(r['error'] for r in own):.1%} "
                f"| {f'{median(ranks):.3f}' if ranks else '-'} | {f'{min(ranks):.3f}' if ranks else '-'} "
                f"| {f'{mean(covered):.0%}' if covered else '-'} | {median(r['seconds'] for r in own):.1f} |"
            )
    text = [
        "# What a Shapley value costs",
        f"LeNet on Fashion-MNIST, FedAvg with all clients, Dirichlet shards (alpha 0.5), about 600 images each. "
        f"Games are rounds {options.warm_up + 1} to {options.warm_up + options.rounds} of each run, "
        f"over the clients' real updates; a coalition is worth minus the loss of its model on {options.images:,} "
        f"images that no client has. The sampled methods were repeated with {options.draws} seeds a game.",
        "Made by `make reproduce-shapley-cost`, on one thread of a CPU; every method has its default parameters.",
        "An evaluation is a model scored, that of nobody included. The error is the Euclidean distance to the exact "
        "values over their length. `one_round` is compared with the sum of the rounds' exact values, and evaluates "
        "once for all rounds. Medians over games and seeds; *lowest* is the worst rank correlation (Spearman) "
        "among them. *Intervals hit* is the share of 95 % intervals that hold the exact value. Seconds are those "
        "of the evaluations, for one game.",
        "\n".join(rows),
        f"![Error against evaluations]({NAME}.png)",
    ]
    return "\n\n".join(text) + "\n"


def draw(records: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Error against evaluations, a panel a size, a point a game and seed."""
    sizes = sorted({r["clients"] for r in records})
    figure = Figure(figsize=(2.8 * len(sizes), 3.2), layout="constrained")
    for axes, size in zip(np.atleast_1d(figure.subplots(1, len(sizes), sharey=True)), sizes, strict=True):
        for i, method in enumerate(METHODS[1:]):
            own = [r for r in records if (r["clients"], r["method"]) == (size, method)]
            x, y = [r["evaluations"] for r in own], [max(r["error"], 1e-3) for r in own]
            axes.scatter(x, y, s=14, alpha=0.5, label=method, color=f"C{i}", linewidths=0)
        axes.axvline(2**size, color="0.6", linewidth=1, linestyle="--")
        axes.set(xscale="log", yscale="log", title=f"{size} clients", xlabel="evaluations")
    figure.axes[0].set_ylabel("relative error (0 drawn at 0.001)")
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=5, fontsize=8)
    figure.savefig(path, dpi=110)


def _read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


if __name__ == "__main__":
    main()
