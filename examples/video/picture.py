"""Strips of frames, and an animation of the same."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from fastdiff.files import write

SCALE, LABEL, ROWS = 3, 200, 2  # pixels for one, width of the names, videos of each


def draw(shown: Mapping[str, Tensor], folder: Path) -> None:
    """video.png, time to the right, and video.gif."""
    names = [name for name in shown for _ in range(ROWS)]
    rows = torch.stack([x[i, 0] for x in shown.values() for i in range(ROWS)])  # [R, T, H, W]
    strips = Image.fromarray(np.concatenate([with_name(row, name) for row, name in zip(rows, names, strict=True)]))
    write(folder / "video.png", lambda partial: strips.quantize(32).save(partial, format="PNG", optimize=True))
    frames = [Image.fromarray(still(rows[:, k], list(shown))).quantize(32) for k in range(rows.shape[1])]
    save = {"format": "GIF", "save_all": True, "append_images": frames[1:], "duration": 200, "loop": 0}
    write(folder / "video.gif", lambda partial: frames[0].save(partial, **save))


def grey(frame: Tensor) -> np.ndarray:
    """[H, W] in [-1, 1] as bytes, SCALE times as large, with a border."""
    large = (127.5 * (frame.clamp(-1, 1) + 1)).byte().repeat_interleave(SCALE, 0).repeat_interleave(SCALE, 1).numpy()
    return np.pad(large, 1, constant_values=90)


def label(name: str, height: int) -> np.ndarray:
    image = Image.new("L", (LABEL, height), 0)
    ImageDraw.Draw(image).text((4, height // 2 - 6), name, fill=255)
    return np.asarray(image)


def with_name(row: Tensor, name: str) -> np.ndarray:
    strip = np.concatenate([grey(frame) for frame in row], 1)
    return np.concatenate([label(name, len(strip)), strip], 1)


def still(frames: Tensor, names: list[str]) -> np.ndarray:
    """One time of all videos [R, H, W], a line for each name."""
    lines = [np.concatenate([grey(f) for f in frames[i : i + ROWS]], 1) for i in range(0, len(frames), ROWS)]
    return np.concatenate(
        [np.concatenate([label(n, len(part)), part], 1) for n, part in zip(names, lines, strict=True)]
    )
