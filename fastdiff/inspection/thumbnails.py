"""Tensors as small pictures that stand in a page."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

LARGEST = 256  # pixels of a side
SMALLEST = 8
GAP = 1  # pixels between channels


def framed(x: Tensor, low: float | Tensor, high: float | Tensor) -> np.ndarray:
    """[K, H, W] or [K, H, W, 3] uint8 of pictures x [K, 1 or 3, H, W], from low (black) to high (white).

    What is not finite is black.
    """
    scaled = torch.nan_to_num((x.double() - low) / (high - low) * 255, nan=0.0, posinf=0.0, neginf=0.0)
    pixels = scaled.round().clamp(0, 255).to(torch.uint8).movedim(1, -1).numpy()
    return pixels if pixels.shape[-1] == 3 else pixels[..., 0]


def side_by_side(x: Tensor) -> Tensor:
    """[K, 1, H', W'] the channels of x [K, C, H, W] in a grid, with gaps of NaN."""
    count, channels, height, width = x.shape
    columns = math.ceil(math.sqrt(channels))
    rows = math.ceil(channels / columns)
    canvas = x.new_full((count, rows * (height + GAP) - GAP, columns * (width + GAP) - GAP), math.nan)
    for c in range(channels):
        top, left = c // columns * (height + GAP), c % columns * (width + GAP)
        canvas[:, top : top + height, left : left + width] = x[:, c]
    return canvas[:, None]


def data_uris(frames: Sequence[np.ndarray], budget: int) -> list[list[str]]:
    """Each frame's pictures as PNG in data URIs, shrunk until all together take at most `budget` characters.

    frames: arrays [K, H, W] or [K, H, W, 3] of one size.
    """
    side = max(frames[0].shape[1:3])
    size = min(side, LARGEST)
    while True:
        found = [[_data_uri(picture, size / side) for picture in frame] for frame in frames]
        spent = sum(len(uri) for uris in found for uri in uris)
        if spent <= budget or size <= SMALLEST:
            return found
        size = max(SMALLEST, int(size * min(0.9, math.sqrt(budget / spent))))


def _data_uri(picture: np.ndarray, scale: float) -> str:
    image = Image.fromarray(picture)
    if scale < 1:
        width, height = (max(1, round(side * scale)) for side in image.size)
        image = image.resize((width, height), Image.Resampling.BOX)
    file = io.BytesIO()
    image.save(file, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
