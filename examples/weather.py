"""Terrain at four times the resolution that is given, as weather models are downscaled: ensembles and their scores.

python -m examples.weather [--quick] [--out FOLDER]

A network is called as PhysicsNeMo calls CorrDiff's, D(x, img_lr, sigma, class_labels), and sampled by PhysicsNeMo's
own methods and by fastdiff's default, with as many evaluations each. The fields are 16 x 16 pieces of a digital
elevation model that the network has not seen; what is given are means of 4 x 4 points.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

from fastdiff import demo
from fastdiff.hosts.physicsnemo import deterministic_sampler

from .posterior.problem import Network
from .posterior.scores import coverage, crps

FACTOR = 4
SOLVERS = {"PhysicsNeMo's Heun": "heun", "PhysicsNeMo's Euler": "euler", "fastdiff": None}
HEAD = ("sampler", "evaluations", "numerical error", "RMSE of the mean", "CRPS", "spread / skill", "in 90 %")


class Downscaler:
    """D(x, img_lr, sigma, class_labels): the terrain network's, moved so that its coarse means are those of img_lr."""

    sigma_min, sigma_max = 0.002, 80.0

    def __init__(self, net: demo.DemoNetwork) -> None:
        self.model = Network(net)

    def round_sigma(self, sigma: object) -> Tensor:
        return torch.as_tensor(sigma)

    def __call__(self, x: Tensor, img_lr: Tensor, sigma: Tensor, class_labels: Tensor | None = None) -> Tensor:
        d = self.model.denoised(x, float(sigma))
        return d + finer(img_lr - coarse(d))


def coarse(x: Tensor) -> Tensor:
    return avg_pool2d(x, FACTOR)


def finer(y: Tensor) -> Tensor:
    """The pseudo-inverse of `coarse`: each mean at all of its points."""
    return y.repeat_interleave(FACTOR, 2).repeat_interleave(FACTOR, 3)


@torch.no_grad()
def ensemble(net: Downscaler, y: Tensor, members: int, evaluations: int, solver: str | None) -> Tensor:
    """[M, N, 1, H, W] members given y [N, 1, h, w]. Heun's method makes two evaluations a step, but for the last."""
    shape = (members * len(y), 1, FACTOR * y.shape[2], FACTOR * y.shape[3])
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    steps = (evaluations + 1) // 2 if solver == "heun" else evaluations
    given = y.repeat(members, 1, 1, 1)
    x = deterministic_sampler(net, noise, given, num_steps=steps, solver=solver, dtype=torch.float32)
    return x.unflatten(0, (members, -1))


def spread_skill(x: Tensor, truth: Tensor) -> float:
    """sqrt((M + 1) / M mean variance / mean squared error of the mean): 1 where members are as far as the truth is."""
    members = len(x)
    error = (x.mean(0) - truth).square().mean()
    return float(((members + 1) / members * x.var(0).mean() / error).sqrt())


def ranks(x: Tensor, truth: Tensor) -> Tensor:
    """[M + 1] how often so many members lie below the truth: flat where it might be one of them."""
    return torch.bincount((x < truth).sum(0).flatten(), minlength=len(x) + 1)


def row(name: str, evaluations: int, x: Tensor, truth: Tensor, converged: Tensor) -> tuple[str, ...]:
    numerical = float((x - converged).square().mean().sqrt() / converged.std())
    rmse = float((x.mean(0) - truth).square().mean().sqrt())
    found = (numerical, rmse, crps(x, truth), spread_skill(x, truth), coverage(x, truth))
    return name, str(evaluations), *(f"{number:.4g}" for number in found)


def draw_picture(columns: dict[str, Tensor], histograms: dict[str, Tensor], path: Path) -> None:
    """A line of fields for each truth, and the rank histograms below."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    lines = min(3, len(columns["truth"]))
    figure = plt.figure(figsize=(2 * len(columns), 2 * lines + 1.8), layout="constrained")
    grid = figure.add_gridspec(lines + 1, len(columns) * len(histograms))
    for i in range(lines):
        low, high = float(columns["truth"][i].min()), float(columns["truth"][i].max())
        for j, (name, fields) in enumerate(columns.items()):
            axes = figure.add_subplot(grid[i, j * len(histograms) : (j + 1) * len(histograms)])
            limits = {} if name == "spread" else {"vmin": low, "vmax": high}
            axes.imshow(fields[i, 0].numpy(), cmap="magma" if name == "spread" else "terrain", **limits)
            axes.set_axis_off()
            if i == 0:
                axes.set_title(name, fontsize=9)
    for j, (name, counts) in enumerate(histograms.items()):
        axes = figure.add_subplot(grid[lines, j * len(columns) : (j + 1) * len(columns)])
        axes.bar(range(len(counts)), (counts / counts.sum()).tolist(), width=1.0)
        axes.axhline(1 / len(counts), color="black", linewidth=0.8)
        axes.set_title(f"rank of the truth, {name}", fontsize=9)
        axes.set_yticks([])
    figure.savefig(path, dpi=75)
    plt.close(figure)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few members, fields and evaluations")
    parser.add_argument("--out", type=Path, help="folder for a picture")
    asked = parser.parse_args(argv)
    members, fields, counts, many = (4, 2, (5,), 15) if asked.quick else (19, 4, (5, 9, 17), 61)
    data = demo.network("terrain")
    truth = data.examples[:: math.ceil(len(data.examples) / fields)][:fields]
    net, y = Downscaler(data), coarse(truth)
    converged = ensemble(net, y, members, many, "heun")
    smooth = interpolate(y, scale_factor=FACTOR, mode="bicubic")
    print("| " + " | ".join(HEAD) + " |\n|" + "---|" * len(HEAD))
    print(
        f"| bicubic | | | {float((smooth - truth).square().mean().sqrt()):.4g} | {crps(smooth[None], truth):.4g} | | |"
    )
    found = {}
    for evaluations in counts:
        for name, solver in SOLVERS.items():
            x = found[name, evaluations] = ensemble(net, y, members, evaluations, solver)
            print("| " + " | ".join(row(name, evaluations, x, truth, converged)) + " |", flush=True)
    if asked.out is not None:
        asked.out.mkdir(parents=True, exist_ok=True)
        few = counts[min(1, len(counts) - 1)]
        pair = {f"{name}, {few}": found[name, few] for name in ("PhysicsNeMo's Heun", "fastdiff")}
        columns = {"truth": truth, "given": y, "bicubic": smooth}
        columns |= {f"{name}: member": x[0] for name, x in pair.items()}
        columns |= {"fastdiff: mean": found["fastdiff", few].mean(0), "spread": found["fastdiff", few].std(0)}
        draw_picture(columns, {name: ranks(x, truth) for name, x in pair.items()}, asked.out / "weather.png")


if __name__ == "__main__":
    main()
