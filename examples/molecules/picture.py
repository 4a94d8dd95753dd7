"""Molecules in space: balls for atoms, sticks for bonds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch

from fastdiff import structures
from fastdiff.files import write

from .data import ANGSTROM, Molecules
from .scores import BOND, RADII, relative

COLOURS = {1: "#e8e8e8", 6: "#444444", 7: "#3355dd", 8: "#dd3322", 9: "#55bb44"}
COLUMNS = 6


def draw(known: Molecules, drawn: Mapping[tuple[str, int], Molecules], path: Path) -> None:
    """A row for the known molecules and one for each sampler, keys (name, evaluations), at its most of up to 10."""
    most = {name: n for name, n in sorted(drawn, key=lambda key: key[1]) if n <= 10}
    order = dict.fromkeys(name for name, _ in drawn)
    rows = [("known", known), *((f"{name},\n{most[name]} calls", drawn[name, most[name]]) for name in order)]
    by_size = (known.atoms[: len(rows[1][1].x)] > 0).sum(1).argsort()
    chosen = by_size[torch.linspace(0, len(by_size) - 1, min(COLUMNS, len(by_size))).long()].tolist()
    figure = plt.figure(figsize=(1.6 * COLUMNS, 2 * len(rows)), dpi=70)
    for r, (name, molecules) in enumerate(rows):
        for c, i in enumerate(chosen):
            axes = figure.add_subplot(len(rows), COLUMNS, r * COLUMNS + c + 1, projection="3d")
            one(axes, molecules.at(torch.tensor([i])), known.at(torch.tensor([i])))
            if r == 0:
                axes.set_title(known.names[i], fontsize=8, pad=-2)
        figure.text(0.02, 1 - (r + 0.5) / len(rows), name, fontsize=8, rotation=90, va="center", ha="center")
    figure.subplots_adjust(0.05, 0.0, 1, 0.96, 0, 0)
    write(path, lambda partial: figure.savefig(partial, format="png"))
    plt.close(figure)


def one(axes: plt.Axes, molecule: Molecules, like: Molecules) -> None:
    """One of them, turned as the known one is as far as the order of its atoms tells."""
    x = structures.align(molecule.x, like.x, like.mask)[0] * ANGSTROM
    bonds = (relative(molecule)[1][0] < BOND).triu().nonzero().tolist()
    for i, j in bonds:
        axes.plot(*zip(x[i].tolist(), x[j].tolist(), strict=True), color="#999999", linewidth=2, zorder=1)
    for z, place in zip(molecule.atoms[0].tolist(), x.tolist(), strict=True):
        if z:
            size = 900 * float(RADII[z]) ** 1.2 / 4
            axes.scatter(*place, s=size, color=COLOURS[z], edgecolors="black", linewidths=0.5, depthshade=False)
    axes.set_axis_off()
    axes.set_box_aspect((1, 1, 1), zoom=1.3)
    for limit in (axes.set_xlim, axes.set_ylim, axes.set_zlim):
        limit(-2.6, 2.6)
