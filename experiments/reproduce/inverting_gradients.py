"""Inverting Gradients on CIFAR-10: ``python -m experiments.reproduce.inverting_gradients --out docs/results``.

An untrained ConvNet of the authors' width 64, fresh for each victim, in evaluation mode; the first test
images, normalised; one image a gradient, and batches of eight; labels recovered by the attack.
"""

from __future__ import annotations

import argparse

from experiments.reproduce.victims import CONSOLE, Task, arguments, run_all, summary, table

NAME = "inverting_gradients"
BATCH = 8


def main() -> None:
    """Run what is missing, then write table and pictures."""
    options = arguments(__doc__ or "", _configure)
    parameters = {"iterations": options.iterations}
    network = {"width": options.width}
    # Iterations and width are part of the name, so that a resumed run never mixes settings.
    setting = f"width{options.width}-iterations{options.iterations}"
    tasks = [
        Task(f"batch1-{setting}", NAME, parameters, "convnet", network, victim, (victim,), normalise=True)
        for victim in range(options.victims)
    ] + [
        Task(
            f"batch{BATCH}-{setting}",
            NAME,
            parameters,
            "convnet",
            network,
            victim,
            tuple(range(BATCH * victim, BATCH * (victim + 1))),
            normalise=True,
        )
        for victim in range(options.batches)
    ]
    records = run_all(tasks, options.out, NAME, options.workers)
    text = [
        "# Inverting Gradients on an untrained ConvNet",
        f"CIFAR-10, the first test images, normalised; `convnet` of width {options.width} in evaluation mode with "
        f"fresh weights for each victim; {options.iterations} iterations, one start, labels recovered by the attack. "
        "Every victim counts.",
        "Made by `python -m experiments.reproduce.inverting_gradients`, on one thread of a CPU a victim.",
    ]
    for name in dict.fromkeys(task.name for task in tasks):
        own = [record for record in records if record["name"] == name]
        CONSOLE.print(f"{name}: {summary(own)}")
        text += [f"## {name}", summary(own), f"![originals above reconstructions]({NAME}-{name}.png)", table(own)]
    (options.out / f"{NAME}.md").write_text("\n\n".join(text) + "\n")


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--victims", type=int, default=10, help="victims with one image a gradient")
    parser.add_argument("--batches", type=int, default=2, help=f"victims with {BATCH} images a gradient")
    parser.add_argument("--iterations", type=int, default=400, help="of the attack")
    parser.add_argument("--width", type=int, default=64, help="of the network")


if __name__ == "__main__":
    main()
