"""The block on its way in one episode by each sampler, and success by the number of evaluations."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from .expert import GOAL, outline
from .rollouts import Result


def save(found: list[tuple[str, int, Result]], path: Path, shown: int = 0) -> None:
    """Write the picture. found: (name, evaluations, result) of each sampler. shown: which episode is drawn."""
    drawn = {(name, n): result for name, n, result in found}
    names = [key for key in (("DDPM", 100), ("DDIM", 4), ("**fastdiff**", 4)) if key in drawn]
    figure, axes = plt.subplots(1, len(names) + 1, figsize=(3.2 * (len(names) + 1), 3.2), layout="constrained")
    for axis, key in zip(axes, names, strict=False):
        run = drawn[key].paths[shown]
        axis.fill(*outline(GOAL).T, color="lightgreen")
        for i in np.linspace(0, len(run) - 1, 9).astype(int):
            axis.fill(*outline(run[i, 2:]).T, color="slategray", alpha=0.15 + 0.6 * (i == len(run) - 1))
        axis.plot(*run[:, :2].T, color="royalblue", linewidth=0.8)
        axis.set(xlim=(0, 512), ylim=(512, 0), aspect="equal", xticks=[], yticks=[])
        title = f"{key[0].strip('*')}, {key[1]} evaluations"
        axis.set_title(f"{title}\n{len(run) - 1} steps, coverage {drawn[key].coverage[shown]:.2f}", fontsize=8)
    for name in dict.fromkeys(name for name, _, _ in found):
        points = sorted(
            (n, 100 * r.success.mean(), 100 * r.success.std() / len(r.success) ** 0.5) for m, n, r in found if m == name
        )
        n, mean, error = zip(*points, strict=True)
        axes[-1].errorbar(n, mean, error, marker="o", markersize=3, linewidth=1, label=name.replace("*", ""))
    axes[-1].set(xscale="log", xlabel="evaluations a chunk", ylabel="success, %", ylim=(0, 102))
    axes[-1].legend(fontsize=6)
    figure.savefig(path, dpi=90)
    plt.close(figure)
