"""Pictures of a reconstruction: originals above what the attack made of them, as PNG."""

from __future__ import annotations

import base64
import io
import math
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

COLUMNS = 8
"""Images beside each other before a strip goes on below."""

_GAP = 1  # transparent pixels between images
_PAIR_GAP = 4  # and between one row of pairs and the next
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_CELL = 60  # an image of a batch is shown at about this many CSS pixels
_ALONE = 90  # and one of a single image at this many


@dataclass(frozen=True)
class Picture:
    """A PNG as the page embeds it.

    Attributes:
        uri: ``data:image/png;base64,...``.
        width: pixels of the file.
        height: pixels of the file.
        scale: whole number of screen pixels that one pixel is shown at.
    """

    uri: str
    width: int
    height: int
    scale: int

    @property
    def shown_width(self) -> int:
        """CSS pixels."""
        return self.width * self.scale

    @property
    def shown_height(self) -> int:
        """CSS pixels."""
        return self.height * self.scale


def strip(originals: Tensor, reconstructions: Tensor, *, columns: int = COLUMNS) -> bytes:
    """A PNG of originals above reconstructions, one pair a column, pixel for pixel.

    Batches wider than ``columns`` go on below. The gaps are transparent.

    Args:
        originals: float [B, C, H, W] in [0, 1].
        reconstructions: of the same shape, in the order of the originals; values are clamped, and what
            is not finite is shown as grey.
        columns: most pairs in a row.

    Raises:
        ValueError: the shapes differ, or there is no image.
    """
    if originals.shape != reconstructions.shape or originals.ndim != 4 or originals.numel() == 0:
        raise ValueError(f"cannot pair images of shapes {list(originals.shape)} and {list(reconstructions.shape)}")
    above, below = _pixels(originals), _pixels(reconstructions)
    batch, height, width, channels = above.shape
    across = min(columns, batch)
    rows = math.ceil(batch / across)
    pair = 2 * height + _GAP
    canvas = np.zeros((rows * pair + (rows - 1) * _PAIR_GAP, across * (width + _GAP) - _GAP, channels), dtype=np.uint8)
    for i in range(batch):
        top, left = (i // across) * (pair + _PAIR_GAP), (i % across) * (width + _GAP)
        canvas[top : top + height, left : left + width] = above[i]
        canvas[top + height + _GAP : top + pair, left : left + width] = below[i]
    return _png(canvas)


def grid(images: Tensor, *, columns: int = COLUMNS) -> bytes:
    """A PNG of images beside and below each other, pixel for pixel; the gaps are transparent.

    Args:
        images: float [N, C, H, W] in [0, 1]; values are clamped, and what is not finite is shown as grey.
        columns: most images in a row.

    Raises:
        ValueError: there is no image.
    """
    if images.ndim != 4 or images.numel() == 0:
        raise ValueError(f"cannot picture images of shape {list(images.shape)}")
    tiles = _pixels(images)
    count, height, width, channels = tiles.shape
    across = min(columns, count)
    rows = math.ceil(count / across)
    canvas = np.zeros((rows * (height + _GAP) - _GAP, across * (width + _GAP) - _GAP, channels), dtype=np.uint8)
    for i, tile in enumerate(tiles):
        top, left = (i // across) * (height + _GAP), (i % across) * (width + _GAP)
        canvas[top : top + height, left : left + width] = tile
    return _png(canvas)


def embed(folder: Path, name: object) -> Picture | None:
    """The picture of a record as a data URI; ``None`` if there is no such PNG in the folder.

    A name is looked up in the folder itself only, so that a record from somebody else cannot make the
    page show another file.
    """
    if not isinstance(name, str) or Path(name).name != name:
        return None
    path = folder / name
    if path.is_symlink() or not path.is_file():
        return None
    content = path.read_bytes()
    if not content.startswith(_SIGNATURE) or len(content) < 24:
        return None
    width, height = struct.unpack(">II", content[16:24])
    return Picture("data:image/png;base64," + base64.b64encode(content).decode(), width, height, scale=1)


def at_scale(picture: Picture, batch: int, *, enlarge: float = 1.0) -> Picture:
    """The picture enlarged by the whole number that brings one image to a good size.

    Args:
        picture: a strip.
        batch: images in it.
        enlarge: factor on that size, for strips of a few images that are to be looked at first.
    """
    across = max(1, min(COLUMNS, batch))
    image = (picture.width + _GAP) / across - _GAP
    wanted = min(enlarge * (_ALONE if across == 1 else _CELL), max(_CELL, 4 * _CELL * enlarge / across))
    return Picture(picture.uri, picture.width, picture.height, max(1, round(wanted / max(1.0, image))))


def _png(canvas: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(canvas).save(file, format="PNG", optimize=True)
    return file.getvalue()


def _pixels(images: Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """uint8 [B, H, W, 2 or 4]: grey or colour, and opaque."""
    values = images.detach().cpu().float().nan_to_num(0.5, 0.5, 0.5).clamp(0, 1)
    if values.shape[1] != 3:
        values = values.mean(dim=1, keepdim=True)
    pixels = (values * 255).round().byte().permute(0, 2, 3, 1).numpy()
    return np.concatenate([pixels, np.full((*pixels.shape[:3], 1), 255, dtype=np.uint8)], axis=3)
