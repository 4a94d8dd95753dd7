"""Pictures of members."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import pad

from .methods import Members
from .problem import Problem

COUNT, COLOURS = 4, 64  # of the data, and in the file, at most


def draw_picture(problem: Problem, found: Sequence[Members], folder: Path) -> None:
    """Into the folder, by the problem's name."""
    figure = (images if problem.images else curves)(problem, found)
    folder.mkdir(parents=True, exist_ok=True)
    name = "".join(c if c.isalnum() else "_" for c in problem.name)
    figure.canvas.draw()
    pixels = np.asarray(figure.canvas.buffer_rgba())[..., :3]
    Image.fromarray(pixels).quantize(COLOURS, dither=Image.Dither.NONE).save(folder / f"{name}.png", optimize=True)
    plt.close(figure)


def images(problem: Problem, found: Sequence[Members]) -> plt.Figure:
    """Rows: the truth and the ordinary method; of each method one member, and the mean of all."""
    cells = [("truth", problem.truth), (problem.start_name, problem.start)]
    for members in found:
        cells += [(members.name, members.x[0]), ("its mean", members.x.mean(0))]
    rows = (len(cells) + 1) // 2
    figure, axes = plt.subplots(rows, 2, figsize=(6, 0.8 * rows), squeeze=False)
    figure.subplots_adjust(0.01, 0.01, 0.99, 0.98, 0.02, 0.25)  # a layout of so many is slow to compute
    for axis in axes.flat:
        axis.set_axis_off()
    for axis, (name, x) in zip(axes.flat, cells, strict=False):
        axis.imshow(line(problem, x).numpy(), cmap="gray", vmin=0, vmax=1)
        axis.set_title(name, fontsize=6, pad=2)
    return figure


def line(problem: Problem, x: Tensor) -> Tensor:
    """The first images [N, C, H, W] side by side, [H + 2, W', C or none]."""
    joined = torch.cat(list(pad(x[:COUNT], (1, 1, 1, 1), value=problem.high)), dim=2).permute(1, 2, 0)
    return ((joined - problem.low) / (problem.high - problem.low)).clamp(0, 1).squeeze(2)


def curves(problem: Problem, found: Sequence[Members]) -> plt.Figure:
    """The first series with its gaps, and the members of each method in them."""
    figure, axes = plt.subplots(len(found), 1, figsize=(8, 1.3 * len(found)), squeeze=False)
    figure.subplots_adjust(0.04, 0.03, 0.99, 0.98, 0.0, 0.35)
    truth = problem.truth[0, -1]
    hidden = torch.ones_like(truth, dtype=torch.bool) if problem.where is None else problem.where[-1]
    for axis, members in zip(axes.flat, found, strict=True):
        x = members.x[:, 0, -1]
        gap = torch.where(hidden, x, torch.nan)
        axis.plot(gap.T.numpy(), color="tab:orange", linewidth=0.4, alpha=0.5)
        axis.plot(torch.where(hidden, x.mean(0), torch.nan).numpy(), color="tab:red", linewidth=1.0)
        axis.set_ylim(float(truth.min()) - 1, float(truth.max()) + 1)
        axis.plot(truth.numpy(), color="black", linewidth=0.5)
        axis.set_title(members.name, fontsize=6, pad=2)
        axis.tick_params(labelsize=5)
    return figure
