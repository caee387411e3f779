"""What ``training.precision = "bf16"`` does to accuracy and speed: the same runs in both precisions.

FedAvg over 100 clients of Fashion-MNIST, 10 a round, 2 local epochs of batch 32. The runs of one seed select the
same clients and cut the same batches, so they differ in precision alone.
"""

from __future__ import annotations

import statistics
import time
from typing import Annotated, Any

import typer

from experiments.experiment import Experiment
from fedsim.arrays import to_record
from server.evaluation import central_evaluation
from server.loop import federate

PRECISIONS = ("float32", "bf16")


def one_run(model: str, precision: str, rounds: int, seed: int, data: str) -> tuple[float, float]:
    """Accuracy after the last round, and the median seconds of a round's training."""
    experiment = Experiment.of(
        {
            "name": "precision",
            "seed": seed,
            "data": {"name": data, "clients": 100},
            "model": {"name": model},
            "training": {
                "rounds": rounds, "local_epochs": 2, "batch_size": 32, "learning_rate": 0.05, "precision": precision,
            },
            "selection": {"clients_per_round": 10},
        }
    )  # fmt: skip
    seconds: list[float] = []
    started, accuracy = time.perf_counter(), 0.0
    training: dict[str, Any] = {"rounds": rounds, "train_config": experiment.plan.to_config()}
    start = to_record(experiment.model().state_dict())
    for done in federate(experiment.strategy(), experiment.grid(), start, **training):
        now = time.perf_counter()
        if done.number:
            seconds.append(now - started)
        if done.number == rounds:
            data_set = experiment.data
            evaluate = central_evaluation(experiment.model(), data_set.test, (data_set.mean, data_set.std))
            accuracy = float(str(evaluate(rounds, done.arrays)["test-accuracy"]))
        started = time.perf_counter()
    return accuracy, statistics.median(seconds)


def main(
    rounds: Annotated[int, typer.Option(help="Rounds of each run.")] = 30,
    seeds: Annotated[int, typer.Option(help="Runs of each model and precision.")] = 3,
    data: Annotated[str, typer.Option(help="Data set.")] = "fashion_mnist",
) -> None:
    """Print a line a model: accuracy in both precisions, their difference over seeds, and the ratio of seconds."""
    typer.echo("| model | accuracy float32 | accuracy bf16 | difference (each seed) | seconds bf16 / float32 |")
    typer.echo("|---|---|---|---|---|")
    for model in ("lenet", "cnn", "convnet"):
        found = {p: [one_run(model, p, rounds, seed, data) for seed in range(seeds)] for p in PRECISIONS}
        plain, half = (found[p] for p in PRECISIONS)
        differences = ", ".join(f"{100 * (h[0] - p[0]):+.2f}" for p, h in zip(plain, half, strict=True))
        ratio = statistics.median(h[1] / p[1] for p, h in zip(plain, half, strict=True))
        means = [100 * statistics.mean(accuracy for accuracy, _ in runs) for runs in (plain, half)]
        typer.echo(f"| {model} | {means[0]:.2f} % | {means[1]:.2f} % | {differences} | {ratio:.2f} |")


if __name__ == "__main__":
    typer.run(main)
