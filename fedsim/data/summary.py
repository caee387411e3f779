"""What is in a data set, as text."""

from __future__ import annotations

from pathlib import Path

from fedsim.data.downloads import DOWNLOADS
from fedsim.data.sources import DATA, SLICE, load
from fedsim.data.store import read_origin, store_root, stored_names


def show(name: str, root: Path | None = None) -> str:
    """Counts, shape, classes, statistics, source and licence of a data set, a fact a line.

    Raises:
        FedsimError: as ``load``.
    """
    data = load(name, root=root)
    channels, height, width = data.input_shape
    lines = [
        f"{name}: {len(data.train)} training and {len(data.test)} test images",
        f"shape    {channels} x {height} x {width} (channels, height, width)",
        f"mean     {', '.join(f'{value:.4f}' for value in data.mean)}",
        f"std      {', '.join(f'{value:.4f}' for value in data.std)}",
    ]
    folder = SLICE if name == SLICE.name else store_root(root) / name
    if (folder / "train.safetensors").is_file():
        origin = read_origin(folder / "train.safetensors")
        lines += [f"source   {origin.source}", f"licence  {origin.licence}", f"folder   {folder}"]
    counts = list(zip(data.train.classes, data.train.label_counts(), data.test.label_counts(), strict=True))
    width = max(len(label) for label in ("class", *data.train.classes))
    lines.append(f"{'class':<{width}}  {'train':>7}  {'test':>7}")
    lines += [f"{label:<{width}}  {train:>7}  {test:>7}" for label, train, test in counts]
    return "\n".join(lines)


def overview(root: Path | None = None) -> str:
    """Every name that ``load`` knows here, and whether it is there, could be fetched, or neither."""
    stored = stored_names(root)
    lines = [f"store: {store_root(root)}"]
    for name in sorted({*DATA.names(), *stored}):
        if name == SLICE.name:
            state = "inside the package"
        elif name in stored:
            state = "in the store"
        else:
            state = f"missing; run: fedsim data fetch {name}" if name in DOWNLOADS else "made when used"
        lines.append(f"{name:<24}{state}")
    return "\n".join(lines)
