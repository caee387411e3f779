"""Inverting Gradients on CIFAR-10: ``python -m experiments.reproduce.inverting_gradients --out docs/results``.

An untrained `convnet`, fresh for each victim, in evaluation mode; the first test
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
    network = {} if options.width is None else {"width": options.width}
    # Settings are part of the name, so that a resumed run never mixes them.
    setting = "-".join([options.model, *(f"width{w}" for w in network.values()), str(options.iterations)])
    tasks = [
        Task(f"batch1-{setting}", NAME, parameters, options.model, network, victim, (victim,), normalise=True)
        for victim in range(options.victims)
    ] + [
        Task(
            f"batch{BATCH}-{setting}",
            NAME,
            parameters,
            options.model,
            network,
            victim,
            tuple(range(BATCH * victim, BATCH * (victim + 1))),
            normalise=True,
        )
        for victim in range(options.batches)
    ]
    records = run_all(tasks, options.out, NAME, options.workers)
    text = [
        "# Inverting Gradients on an untrained network with batch normalisation",
        f"CIFAR-10, the first test images, normalised; `{options.model}` in evaluation mode with "
        f"fresh weights for each victim; {options.iterations} iterations, one start, labels recovered by the attack. "
        "Every victim counts.",
        "Made by `python -m experiments.reproduce.inverting_gradients`, on one thread of a CPU a victim, which also "
        "writes the originals above the reconstructions to `docs/results/pictures/`.",
    ]
    for name in dict.fromkeys(task.name for task in tasks):
        own = [record for record in records if record["name"] == name]
        CONSOLE.print(f"{name}: {summary(own)}")
        text += [f"## {name}", summary(own), table(own)]
    (options.out / f"{NAME}.md").write_text("\n\n".join(text) + "\n")


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--victims", type=int, default=10, help="victims with one image a gradient")
    parser.add_argument("--batches", type=int, default=2, help=f"victims with {BATCH} images a gradient")
    parser.add_argument("--iterations", type=int, default=2_000, help="of the attack")
    parser.add_argument("--model", default="convnet", help="the victims' network; convnet8 is the authors'")
    parser.add_argument("--width", type=int, help="of the network, if not its default")


if __name__ == "__main__":
    main()
