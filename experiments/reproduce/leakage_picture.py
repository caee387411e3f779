"""One picture of what leaked over the rounds of a run: the median victim of each attacked round.

python -m experiments.reproduce.leakage_picture runs/quickstart --out docs/images/quickstart.png
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from PIL import Image, ImageDraw, ImageFont

from experiments.run_folder import RunFolder
from fedsim.errors import FedsimError

_SCALE = 4  # screen pixels for a pixel of the images
_MARGIN = 16
_CAPTION = 44


def main(
    run: Annotated[Path, typer.Argument(help="A run folder with attacks.")],
    out: Annotated[Path, typer.Option(help="The PNG to write.")] = Path("leakage.png"),
) -> None:
    """Write the picture: a column a round, originals above reconstructions, PSNR and accuracy below."""
    folder = RunFolder.open(run)
    records = folder.read_attacks()
    if not records:
        raise FedsimError(f"{run} has no attacks. Run a configuration with [[attacks]].")
    accuracy = {m["round"]: m["test_accuracy"] for m in folder.read_metrics() if m.get("test_accuracy") is not None}
    columns = [
        _column(folder, _median_victim(records, round), accuracy) for round in sorted({r["round"] for r in records})
    ]
    width = sum(column.width for column in columns) + _MARGIN * (len(columns) + 1)
    page = Image.new("RGB", (width, max(column.height for column in columns) + 2 * _MARGIN), "white")
    left = _MARGIN
    for column in columns:
        page.paste(column, (left, _MARGIN))
        left += column.width + _MARGIN
    out.parent.mkdir(parents=True, exist_ok=True)
    page.save(out, optimize=True)
    typer.echo(f"{out}: {page.width} x {page.height}")


def _median_victim(records: list[dict[str, Any]], round: int) -> dict[str, Any]:
    of_round = sorted((r for r in records if r["round"] == round), key=lambda r: r["psnr"])
    return of_round[len(of_round) // 2]


def _column(folder: RunFolder, record: dict[str, Any], accuracy: dict[int, float]) -> Image.Image:
    with Image.open(folder.pictures / record["picture"]) as file:
        strip = file.convert("RGBA")
    strip = strip.resize((strip.width * _SCALE, strip.height * _SCALE), Image.Resampling.NEAREST)
    column = Image.new("RGB", (max(strip.width, 200), strip.height + _CAPTION), "white")
    column.paste(strip, (0, 0), strip)
    before = max((round for round in accuracy if round <= record["round"]), default=None)
    learnt = "" if before is None else f", accuracy {accuracy[before]:.0%}"
    text = f"round {record['round']}{learnt}\nmedian victim: {record['psnr']:.1f} dB"
    ImageDraw.Draw(column).text((0, strip.height + 6), text, "black", ImageFont.load_default(14))
    return column


if __name__ == "__main__":
    typer.run(main)
