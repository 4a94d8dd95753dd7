"""Pictures and arrays on disk, whole or not at all."""

from __future__ import annotations

import math
import os
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


def write(path: Path, save: Callable[[Path], None]) -> None:
    """Call save(partial file) and move the result to `path`; a failed run leaves nothing there."""
    partial = path.with_name(f".{path.stem}.partial{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save(partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_png(path: Path, picture: np.ndarray) -> None:
    write(path, lambda partial: Image.fromarray(picture).save(partial, format="PNG"))


def write_npy(path: Path, array: np.ndarray) -> None:
    write(path, lambda partial: np.save(partial, array))
