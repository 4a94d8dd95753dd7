"""What the example draws."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .digits import Digits
from .style import Style

SHOWN, COLOURS = 8, 96


def draw(digits: Digits, style: Style, passes: int, folder: Path) -> None:
    """Into the folder: each task's pictures side by side, a row for each method."""
    lines = []
    for task, (_, methods) in digits.tasks().items():
        if task != "by class":
            lines.append(("digits", digits.image))
        lines += [(f"{task}: {name}, 4", methods[name](4)) for name in ("diffusers Euler", "fastdiff")]
    lines.append(("style of", style.reference.expand(SHOWN, -1, -1, -1)))
    lines += [(name, x) for name, _, x in style.results(passes, (3.0,))]
    figure, axes = plt.subplots(len(lines), 1, figsize=(7, 0.66 * len(lines)))
    figure.subplots_adjust(0.36, 0.005, 0.995, 0.995, 0, 0.06)  # a layout of so many is slow to compute
    for axis, (name, x) in zip(axes, lines, strict=True):
        axis.imshow(_line(x), cmap="gray", vmin=0, vmax=1)
        axis.set_axis_off()
        axis.text(-0.01, 0.5, name, transform=axis.transAxes, ha="right", va="center", fontsize=7)
    figure.canvas.draw()
    pixels = np.asarray(figure.canvas.buffer_rgba())[..., :3]
    folder.mkdir(parents=True, exist_ok=True)
    quantized = Image.fromarray(pixels).quantize(COLOURS, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
    quantized.save(folder / "images.png", optimize=True)
    plt.close(figure)


def _line(x: Tensor) -> np.ndarray:
    """The first pictures side by side, [H, W', 3 or none] in [0, 1]."""
    joined = torch.cat(list(x[:SHOWN]), dim=2).permute(1, 2, 0)
    return ((joined + 1) / 2).clamp(0, 1).squeeze(2).numpy()
