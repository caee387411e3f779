"""fedsim against ``breaching`` on the same gradients: ``python -m experiments.reproduce.compare_breaching``.

Fresh networks in evaluation mode, one normalised CIFAR-10 test image a gradient, labels recovered by each, one
thread of the same machine, one after the other. ``breaching`` runs in a virtual environment of its own, and what
goes there and back is safetensors and JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from adversary import ATTACKS
from adversary.inversion import Victim, reconstruct_many
from experiments.reproduce.breaching_page import DEFAULT_ITERATIONS, VICTIMS, write
from experiments.reproduce.victims import CONSOLE, Task, data_set, observe
from experiments.scoring import score
from fedsim.errors import FedsimError
from fedsim.protocol import Knowledge, Observation

NAME = "compare-breaching"
PARTS = ("rate", "same", "prior", "quality")
MODELS = ("lenet", "cnn", "convnet")
BUDGETS = (50, 100, 200, 400, 800, 1_600, 3_200)
"""Iterations of ours that are tried in turn for a quality."""
FEWER = 5
"""Where the rate is measured, those that attack one by one run so many times fewer iterations: all cost the same."""
WEIGHTS = (0.0, 1e-5, 1e-4, 1e-3, 1e-2, 0.1, 0.8)
"""Of the total variation of ours that are tried on LeNets."""
THEIR_WEIGHTS = (0.2, 0.00001)
"""Of breaching's: its default, and next to nothing as ours."""
TOGETHER = 8
"""Victims attacked at once where the rate is measured."""
COMPILED = ("compiled, first", "compiled, again")
"""Entries of a rate that ``--compiled`` adds."""

Seen = tuple[Observation, Knowledge, Tensor, Tensor]


def main() -> None:
    """Measure what is missing; the lines and the page are written as results come."""
    options = _options()
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    lines, page = options.out / f"{NAME}.jsonl", options.out / f"{NAME}.md"
    records = [json.loads(line) for line in lines.read_text().splitlines()] if lines.exists() else []
    for job in _jobs(options):
        if any(job.key == _key(r) and job.entries <= r.keys() for r in records):
            continue
        part, model, iterations, victim = job.key
        found = {"part": part, "model": model, "victim": victim, "iterations": iterations} | job.measure()
        # A line that lacks something is measured anew as a whole: what is compared ran one after the other.
        records = [*(r for r in records if _key(r) != job.key), found]
        rewritten = lines.with_suffix(".new")
        rewritten.write_text("".join(json.dumps(record) + "\n" for record in records))
        rewritten.replace(lines)
        CONSOLE.print(records[-1])
        write(records, page)
    write(records, page)


@dataclass(frozen=True)
class _Job:
    """Something to be measured.

    Attributes:
        key: part, network, iterations, and the victim or how many.
        measure: gives what is written down beside them.
        entries: without which a line is not complete.
    """

    key: tuple[str, str, int, int]
    measure: Callable[[], dict[str, Any]]
    entries: frozenset[str] = frozenset()


def _key(record: dict[str, Any]) -> tuple[str, str, int, int]:
    return record["part"], record["model"], record["iterations"], record["victim"]


def _jobs(options: argparse.Namespace) -> Iterator[_Job]:
    """All that is asked for, network by network for each victim, so that what is broken off has some of each."""
    python = options.breaching
    if "rate" in options.parts:
        rated = options.rate_iterations
        measure_rate = partial(rate, python, rated, compiled=options.compiled)
        yield _Job(("rate", "lenet", rated, TOGETHER), measure_rate, frozenset(COMPILED if options.compiled else ()))
    if "prior" in options.parts:
        yield _Job(("prior", "lenet", options.iterations, TOGETHER), partial(priors, python, options.iterations))
    for victim in range(options.victims):
        for model in options.models:
            same, quality = options.iterations, options.quality_iterations
            if "same" in options.parts:
                yield _Job(("same", model, same, victim), partial(same_iterations, python, model, victim, same))
            if "quality" in options.parts and model != "lenet":
                measure = partial(time_to_quality, python, model, victim, quality)
                yield _Job(("quality", model, quality, victim), measure)


def same_iterations(python: Path, model: str, victim: int, iterations: int) -> dict[str, Any]:
    """Both attacks with the same number of iterations on one victim."""
    seen = _see(model, victim)
    theirs = _theirs(python, [victim], [seen], iterations)[0]
    return {"breaching": theirs, "fedsim": _ours(seen, victim, iterations)}


def time_to_quality(python: Path, model: str, victim: int, iterations: int) -> dict[str, Any]:
    """How long each takes to the PSNR at which breaching ends: ours with the least budget that gets there.

    What the smaller budgets took before is written down as well.
    """
    seen = _see(model, victim)
    theirs = _theirs(python, [victim], [seen], iterations)[0]
    tried = []
    for budget in BUDGETS:
        tried.append(_ours(seen, victim, budget))
        if tried[-1]["psnr"] >= theirs["psnr"]:
            break
    return {"breaching": theirs, "tried": tried}


def rate(python: Path, iterations: int, *, compiled: bool) -> dict[str, Any]:
    """Victim-iterations a second on LeNet: breaching, ours one by one, together, as restarts of one, compiled."""
    seen = [_see("lenet", victim) for victim in range(TOGETHER)]
    few = max(1, iterations // FEWER)
    theirs = _theirs(python, list(range(TOGETHER)), seen, few)
    alone = [_ours(each, victim, few) for victim, each in enumerate(seen)]
    attack = ATTACKS.create("inverting_gradients", iterations=iterations)
    batch = [Victim([each[0]], each[1], seed=victim) for victim, each in enumerate(seen)]
    record: dict[str, Any] = {}
    for name, runs in (("breaching", theirs), ("one by one", alone)):
        record[name] = {what: sum(run[what] for run in runs) for what in ("seconds", "cpu_seconds")}
        record[name]["iterations"] = few
    begun_again = ATTACKS.create("inverting_gradients", iterations=iterations, restarts=TOGETHER)
    ways = [("together", attack, batch, False), ("one's restarts", begun_again, batch[:1], False)]
    for name, of, those, so in [*ways, *((name, attack, batch, True) for name in COMPILED if compiled)]:
        wall, cpu = time.perf_counter(), _cpu_seconds()
        reconstruct_many(of, those, compiled=so)
        record[name] = {"seconds": time.perf_counter() - wall, "cpu_seconds": _cpu_seconds() - cpu}
        record[name]["iterations"] = iterations
    return record


def priors(python: Path, iterations: int) -> dict[str, Any]:
    """PSNR of both attacks on LeNets by the weight of the total variation, in which their defaults differ.

    Weights are in the units of each: breaching's is of normalised images.
    """
    victims = list(range(TOGETHER))
    seen = [_see("lenet", victim) for victim in victims]
    batch = [Victim([each[0]], each[1], seed=victim) for victim, each in zip(victims, seen, strict=True)]
    theirs, ours = {}, {}
    for weight in THEIR_WEIGHTS:
        runs = _theirs(python, victims, seen, iterations, [f"regularization.total_variation.scale={weight}"])
        theirs[f"{weight:g}"] = [run["psnr"] for run in runs]
    for weight in WEIGHTS:
        attack = ATTACKS.create("inverting_gradients", iterations=iterations, total_variation=weight)
        found = reconstruct_many(attack, batch, compiled=False)
        ours[f"{weight:g}"] = [
            score(one.images, one.labels, truth, labels, lpips=False).psnr
            for one, (_, _, truth, labels) in zip(found, seen, strict=True)
        ]
    return {"breaching": theirs, "fedsim": ours}


def _cpu_seconds() -> float:
    """Of this process and of those that it started and that have ended, such as compilers."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def _see(model: str, victim: int) -> Seen:
    task = Task(NAME, "inverting_gradients", {}, model, {}, victim, (victim,), normalise=True)
    return observe(task, data_set(normalise=True))


def _ours(seen: Seen, victim: int, iterations: int) -> dict[str, Any]:
    observation, knowledge, truth, labels = seen
    attack = ATTACKS.create("inverting_gradients", iterations=iterations)
    wall, cpu = time.perf_counter(), time.process_time()
    found = attack.reconstruct([observation], knowledge, seed=victim)
    seconds, cpu_seconds = time.perf_counter() - wall, time.process_time() - cpu
    psnr = score(found.images, found.labels, truth, labels, lpips=False).psnr
    return {"iterations": found.iterations, "psnr": psnr, "seconds": seconds, "cpu_seconds": cpu_seconds}


def _theirs(
    python: Path, victims: Sequence[int], seen: Sequence[Seen], iterations: int, changes: Sequence[str] = ()
) -> list[dict[str, Any]]:
    knowledge = seen[0][1]
    given: dict[str, Tensor] = {}
    for victim, (observation, own, _, _) in zip(victims, seen, strict=True):
        network = own.model()
        groups = {
            "parameters": [observation.sent[name] for name, _ in network.named_parameters()],
            "buffers": [observation.sent[name] for name, _ in network.named_buffers()],
            "gradients": [observation.received[name] for name, _ in network.named_parameters()],
        }
        for name, tensors in groups.items():
            given |= {f"{victim}/{name}/{i}": tensor.contiguous() for i, tensor in enumerate(tensors)}
    job = {
        "layers": _layers(knowledge.model()),
        "iterations": iterations,
        "changes": list(changes),
        "victims": list(victims),
        "shape": knowledge.input_shape,
        "classes": knowledge.classes,
        "mean": knowledge.mean,
        "std": knowledge.std,
    }
    script = Path(__file__).with_name("breaching_side.py")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_file(given, folder / "given.safetensors")
        (folder / "job.json").write_text(json.dumps(job))
        # Hydra's and breaching's own messages are kept for the case of an error.
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | {
            "OMP_NUM_THREADS": "1"
        }
        done = subprocess.run(  # noqa: S603
            [python, script, folder], env=environment, cwd=folder, capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise FedsimError(f"breaching ended with an error:\n{done.stderr[-2_000:]}")
        images = load_file(folder / "found.safetensors")
        records: list[dict[str, Any]] = json.loads((folder / "found.json").read_text())
    for victim, record, (_, _, truth, labels) in zip(victims, records, seen, strict=True):
        scores = score(images[str(victim)], torch.tensor(record.pop("labels")), truth, labels, lpips=False)
        record |= {"iterations": iterations, "psnr": scores.psnr}
    return records


def _layers(network: nn.Module) -> list[tuple[str, dict[str, Any]]]:
    """A chain of layers as names and settings, which the other side builds anew."""
    found: list[tuple[str, dict[str, Any]]] = []
    for layer in network.modules():
        settings: dict[str, Any] = {}
        if isinstance(layer, nn.Conv2d):
            names = ("in_channels", "out_channels", "kernel_size", "stride", "padding")
            settings = {name: getattr(layer, name) for name in names}
        elif isinstance(layer, nn.Linear):
            settings = {"in_features": layer.in_features, "out_features": layer.out_features}
        elif isinstance(layer, nn.BatchNorm2d):
            settings = {"num_features": layer.num_features}
        elif not isinstance(layer, nn.ReLU | nn.Sigmoid | nn.Flatten):
            if next(layer.children(), None) is None:
                raise FedsimError(f"No description of a {type(layer).__name__} for breaching. Compare another model.")
            continue
        found.append((type(layer).__name__, settings))
    return found


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("docs/results"), help="folder of the results")
    parser.add_argument("--breaching", type=Path, default=Path(".venv-breaching/bin/python"), help="its interpreter")
    parser.add_argument("--victims", type=int, default=VICTIMS, help="of each network")
    parser.add_argument("--models", nargs="+", default=MODELS, choices=MODELS, help="networks")
    parser.add_argument("--parts", nargs="+", default=PARTS, choices=PARTS, help="what to measure")
    parser.add_argument("--iterations", type=int, default=2_000, help="where both do the same number")
    parser.add_argument("--quality-iterations", type=int, default=DEFAULT_ITERATIONS, help="breaching's for a quality")
    parser.add_argument("--rate-iterations", type=int, default=2_000, help="where the rate is measured")
    parser.add_argument("--compiled", action="store_true", help="measure the rate of a compiled step too")
    options = parser.parse_args()
    options.breaching = options.breaching.absolute()
    if not options.breaching.exists():
        raise SystemExit(f"There is no {options.breaching}. Run `make compare-breaching`, which installs breaching.")
    return options


if __name__ == "__main__":
    main()
