"""The part of ``compare_breaching`` that runs where ``breaching`` is installed, and fedsim is not.

``python breaching_side.py JOB``: reads ``JOB/job.json`` and ``JOB/given.safetensors``, attacks each victim with
breaching's ``invertinggradients``, and writes ``JOB/found.safetensors`` and ``JOB/found.json``.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn


def network(layers: list[tuple[str, dict[str, Any]]]) -> nn.Module:
    """A chain of PyTorch's own layers."""
    return nn.Sequential(*[getattr(nn, name)(**settings) for name, settings in layers])


def group(given: dict[str, Tensor], prefix: str) -> list[Tensor]:
    """The tensors ``prefix/0``, ``prefix/1``, ... in this order."""
    count = sum(key.startswith(prefix + "/") for key in given)
    return [given[f"{prefix}/{i}"] for i in range(count)]


def main(folder: Path) -> None:
    """Attack all victims of a job, one after the other, on one thread."""
    # Only here, so that the rest can be imported where breaching is not.
    import breaching  # type: ignore[import-not-found]

    torch.set_num_threads(1)
    job, given = json.loads((folder / "job.json").read_text()), load_file(folder / "given.safetensors")
    changes = [f"optim.max_iterations={job['iterations']}", *job["changes"]]
    settings = breaching.get_attack_config("invertinggradients", changes)
    metadata = SimpleNamespace(
        shape=tuple(job["shape"]), classes=job["classes"], mean=job["mean"], std=job["std"], modality="vision"
    )
    images, records = {}, []
    for victim in job["victims"]:
        torch.manual_seed(victim)  # breaching draws its start from the global generator
        attacker = breaching.attacks.prepare_attack(
            network(job["layers"]),
            nn.CrossEntropyLoss(),
            settings,
            {"device": torch.device("cpu"), "dtype": torch.float},
        )
        sent = {
            "parameters": group(given, f"{victim}/parameters"),
            "buffers": group(given, f"{victim}/buffers"),
            "metadata": metadata,
        }
        received = {
            "gradients": group(given, f"{victim}/gradients"),
            "buffers": None,
            "metadata": {"num_data_points": 1, "labels": None, "local_hyperparams": None},
        }
        wall, cpu = time.perf_counter(), time.process_time()
        found, _ = attacker.reconstruct([sent], [received], {})
        seconds, cpu_seconds = time.perf_counter() - wall, time.process_time() - cpu
        images[f"{victim}"] = (found["data"] * attacker.ds + attacker.dm).clamp(0, 1).contiguous()
        records.append({"labels": found["labels"].tolist(), "seconds": seconds, "cpu_seconds": cpu_seconds})
    save_file(images, folder / "found.safetensors")
    (folder / "found.json").write_text(json.dumps(records))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
