"""Tables of students against their teacher."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from experiments.compare.statistics import mean
from experiments.report.pictures import grid

Record = dict[str, Any]

SHOWN = 12
"""Starts of the picture."""
ENLARGED = 2

HEAD = """# Few steps by distillation

Made by `make reproduce-sfddm` (`python -m experiments.reproduce.sfddm`), on one thread of a CPU. The teacher is the
moving average of a federated diffusion model of Fashion-MNIST after {rounds:,} rounds
(`experiments/configs/federated-diffusion.toml`: {total:,} steps of the cosine schedule, v-prediction, 636,465
parameters). Students learn on the server's own {images:,} images, which are no client's; all are judged on test images.

- **teacher**: deterministic DDIM over evenly spaced steps.
- **output, from the teacher**: the perfect student of the published target. It starts as the teacher, asked at the
  teacher's steps, and has nothing to learn; so it draws what the teacher draws with as few steps.
- **output, from random**: SFDDM as published: the teacher's answers and features, from random weights. With as few
  updates as here it is far from done: its row says what that budget buys, the one above what the target is worth.
- **trajectory, from the teacher**: one step of the student is to lead where several of the teacher's lead. With a
  tenth of the steps there is less left to gain than so short a learning loses.

With all steps of the teacher a perfect student, by either target, is the teacher.

Every student's learning is in the table below. PSNR is of images in [0, 1], the mean over {starts} starts that all
share, against what the teacher draws from the same start with all its {total:,} steps; the gain is paired with the
teacher of as few steps, with Student's 95 % interval. `FD` is the squared Frechet distance on features of a small
classifier (`server.features`) to the first 1,000 test images. It compares only within a column, since it falls with
more images. Every step is one call of the network; CPU time is of one image, in batches of 64."""

MEASURES = """| who draws | steps | PSNR, dB | gain, dB | FD | precision | recall | FD of {many} | CPU ms |
| --- | --- | --- | --- | --- | --- | --- | --- | --- |"""

LEARNING = """| student | steps | updates | learning rate, average | sub-steps | PSNR after one epoch | at the end """
LEARNING += """| PSNR to the teacher of as few steps | in order |
| --- | --- | --- | --- | --- | --- | --- | --- | --- |"""

ORDER = """`In order`: of nine starts on the line between two, how many draw a sample that is closer to the teacher's
from its own start than to all of those three or more positions away. A PSNR of 100 dB is the same image."""


def write_page(folder: Path, name: str, records: Sequence[Record]) -> None:
    """Write ``name.md`` of the records that there are.

    Args:
        folder: where to.
        name: of the file, without suffix, and of the picture.
        records: a line each of who draws.
    """
    if not records:
        return
    first = records[0]
    text = [
        HEAD.format(rounds=first["rounds"], total=first["total"], images=first["own_images"], starts=first["starts"])
    ]
    text.append(measures(records))
    text.append(f"## What they draw from the same starts\n\n![Samples]({name}.png)")
    text.append(f"From above: {'; '.join(_who(record, steps=True) for record in shown(records))}.")
    text += ["## What the students learned", learning(records), ORDER]
    (folder / f"{name}.md").write_text("\n\n".join(text) + "\n")


def write_picture(path: Path, samples: Mapping[str, Tensor], records: Sequence[Record]) -> None:
    """A row for each of who draws, a column a start.

    Args:
        path: of the PNG.
        samples: images in [0, 1], float32 [N, 1, H, W], of each record's key.
        records: in their order.
    """
    rows = [samples[record["key"]][:SHOWN] for record in shown(records)]
    large = torch.cat(rows).repeat_interleave(ENLARGED, 2).repeat_interleave(ENLARGED, 3)
    path.write_bytes(grid(large, columns=SHOWN))


def shown(records: Sequence[Record]) -> list[Record]:
    """Those of the picture: the perfect students of the published target draw what the teacher draws."""
    return [record for record in _ordered(records) if not _perfect(record)]


def measures(records: Sequence[Record]) -> str:
    """A row for each of who draws, by the number of steps, the teacher first."""
    many = next((record["many"]["starts"] for record in records if record["many"]), 0)
    rows = [MEASURES.format(many=f"{many:,}")]
    for record in _ordered(records):
        more = f"{record['many']['frechet_distance']:.2f}" if record["many"] else ""
        near = "" if record["steps"] == record["total"] else f"{_mean(record['psnr']):.2f}"
        rows.append(
            f"| {_who(record)} | {record['steps']} | {near} "
            f"| {_gain(record, records)} | {record['frechet_distance']:.2f} | {record['precision']:.3f} "
            f"| {record['recall']:.3f} | {more} | {1000 * record['seconds']:.1f} |"
        )
    return "\n".join(rows)


def learning(records: Sequence[Record]) -> str:
    """A row a student."""
    rows = [LEARNING]
    for record in _ordered(records):
        told = record["lessons"]
        if told is None:
            continue
        updates = told["epochs"] * -(-min(told["images"], record["own_images"]) // told["batch_size"])
        first = record["first_psnr"]
        rows.append(
            f"| {_who(record)} | {record['steps']} | {0 if _perfect(record) else updates:,} "
            f"| {told['learning_rate']:g}, {told['ema']:g} | {told['substeps'] if told['target'] != 'output' else ''} "
            f"| {f'{_mean(first):.2f}' if first and not _perfect(record) else ''} "
            f"| {_mean(record['psnr']):.2f} | {_mean(record['psnr_as_few']):.2f} | {record['in_order']} of 9 |"
        )
    return "\n".join(rows)


def _ordered(records: Sequence[Record]) -> list[Record]:
    return sorted(records, key=lambda record: (-record["steps"], record["lessons"] is not None))


def _who(record: Record, *, steps: bool = False) -> str:
    told = record["lessons"]
    begun = None if told is None else "random" if told["start"] == "random" else "the teacher"
    name = "teacher" if told is None else f"{told['target']}, from {begun}"
    return f"{name} ({record['steps']} steps)" if steps else name


def _perfect(record: Record) -> bool:
    told = record["lessons"]
    return told is not None and told["target"] == "output" and told["start"] == "teacher"


def _gain(record: Record, records: Sequence[Record]) -> str:
    of_teacher = {one["steps"]: one["psnr"] for one in records if one["lessons"] is None}
    if record["lessons"] is None or record["steps"] not in of_teacher:
        return ""
    gains = [own - its for own, its in zip(record["psnr"], of_teacher[record["steps"]], strict=True)]
    if max(map(abs, gains)) == 0:
        return "0"
    found = mean(gains)
    return f"{found.value:+.2f} [{found.low:+.2f}, {found.high:+.2f}]"


def _mean(numbers: Sequence[float]) -> float:
    return sum(numbers) / len(numbers)
