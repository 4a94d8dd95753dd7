"""Pictures of members."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
from torch import Tensor
from torch.nn.functional import pad

from .methods import Members
from .problem import Problem

COUNT = 6  # of the data, at most


def draw_picture(problem: Problem, found: Sequence[Members], folder: Path) -> None:
    """Into the folder, by the problem's name."""
    figure = (images if problem.images else curves)(problem, found)
    folder.mkdir(parents=True, exist_ok=True)
    name = "".join(c if c.isalnum() else "_" for c in problem.name)
    figure.savefig(folder / f"{name}.png", dpi=100)
    plt.close(figure)


def images(problem: Problem, found: Sequence[Members]) -> plt.Figure:
    """Rows: the truth and the ordinary method; of each method one member, and the mean of all."""
    cells = [("truth", problem.truth), (problem.start_name, problem.start)]
    for members in found:
        cells += [(members.name, members.x[0]), ("its mean", members.x.mean(0))]
    rows = (len(cells) + 1) // 2
    figure, axes = plt.subplots(rows, 2, figsize=(9, 0.8 * rows), layout="constrained", squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for axis, (name, x) in zip(axes.flat, cells, strict=False):
        axis.imshow(line(problem, x), cmap="gray", vmin=0, vmax=1)
        axis.set_title(name, fontsize=6, pad=2)
    return figure


def line(problem: Problem, x: Tensor) -> Tensor:
    """The first images [N, C, H, W] side by side, [H + 2, W', C or none]."""
    joined = torch.cat(list(pad(x[:COUNT], (1, 1, 1, 1), value=problem.high)), dim=2).permute(1, 2, 0)
    return ((joined - problem.low) / (problem.high - problem.low)).clamp(0, 1).squeeze(2)


def curves(problem: Problem, found: Sequence[Members]) -> plt.Figure:
    """The first series with its gaps, and the members of each method in them."""
    figure, axes = plt.subplots(len(found), 1, figsize=(9, 1.7 * len(found)), layout="constrained", squeeze=False)
    truth = problem.truth[0, -1]
    hidden = torch.ones_like(truth, dtype=torch.bool) if problem.where is None else problem.where[-1]
    for axis, members in zip(axes.flat, found, strict=True):
        x = members.x[:, 0, -1]
        gap = torch.where(hidden, x, torch.nan)
        axis.plot(gap.T, color="tab:orange", linewidth=0.4, alpha=0.5)
        axis.plot(torch.where(hidden, x.mean(0), torch.nan), color="tab:red", linewidth=1.0)
        axis.plot(truth, color="black", linewidth=0.5)
        axis.set_title(members.name, fontsize=6, pad=2)
        axis.tick_params(labelsize=5)
    return figure
