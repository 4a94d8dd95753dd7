"""Pictures, and what writes them and arrays to a file."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

GAP = 2


def mosaic(images: np.ndarray, columns: int | None = None, scale: int = 8) -> np.ndarray:
    """Grey images [N, h, w] uint8 side by side with a gap, each enlarged `scale` times."""
    count, height, width = images.shape
    columns = columns or math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    cell_h, cell_w = height * scale + GAP, width * scale + GAP
    canvas = np.full((rows * cell_h + GAP, columns * cell_w + GAP), 96, dtype=np.uint8)
    for i, image in enumerate(images):
        top, left = GAP + i // columns * cell_h, GAP + i % columns * cell_w
        canvas[top : top + height * scale, left : left + width * scale] = enlarge(image, scale)
    return canvas


def enlarge(image: np.ndarray, scale: int = 8) -> np.ndarray:
    """[h, w] uint8 to [h * scale, w * scale], bicubic: eight pixels of a digit read better smooth than square."""
    size = (image.shape[1] * scale, image.shape[0] * scale)
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))


def captioned(rows: Sequence[tuple[str, np.ndarray]], width: int = 250) -> np.ndarray:
    """Mosaics of one size under each other, each with its text at the left."""
    font = ImageFont.load_default(size=15)
    bands = []
    for text, picture in rows:
        label = Image.new("L", (width, picture.shape[0]), 255)
        ImageDraw.Draw(label).multiline_text((8, picture.shape[0] // 2), text, fill=0, font=font, anchor="lm")
        bands.append(np.concatenate([np.asarray(label), picture], axis=1))
    return np.concatenate(bands)


def png(picture: np.ndarray) -> Callable[[Path], None]:
    """A function of a path that writes the picture there."""
    return _at_once(lambda file: Image.fromarray(picture).save(file, format="PNG"))


def npy(array: np.ndarray) -> Callable[[Path], None]:
    """A function of a path that writes the array there, whatever its suffix."""
    return _at_once(lambda file: np.save(file, array))


def _at_once(save: Callable[[io.BytesIO], object]) -> Callable[[Path], None]:
    """Pillow and numpy seek in what they write, which a pipe does not bear."""

    def write(path: Path) -> None:
        file = io.BytesIO()
        save(file)
        path.write_bytes(file.getvalue())

    return write
