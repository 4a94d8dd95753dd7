"""Samples of the demo's networks beside their data, as bench/results/networks.png.

python -m bench.networks_picture
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import Tensor

import fastdiff as fd
from fastdiff import demo

RESULTS = Path(__file__).parent / "results"
COUNT, COLUMNS = 16, 8


def draw(net: demo.DemoNetwork, steps: int = 50) -> Tensor:
    """Sixteen samples, of the classes in turn."""
    seeds = range(COUNT)
    grid = "karras" if net.schedule.kind == "ve" else "time"
    plan = fd.plan("dpmpp_2m", net.schedule, steps, prediction=net.prediction, grid=grid)
    noise = fd.noise.randn((COUNT, *net.shape), seeds)
    return net.decode(fd.sample(net.model, plan, noise, seeds=seeds, **net.conditions(seeds)))


def mosaic(images: Tensor, low: float, high: float) -> np.ndarray:
    """Images [16, C, H, W] side by side, [2 (H + 1), 8 (W + 1), C], low to high as 0 to 1."""
    images = torch.nn.functional.pad(((images - low) / (high - low)).clamp(0, 1), (0, 1, 0, 1), value=1.0)
    rows = images.unflatten(0, (-1, COLUMNS)).permute(0, 3, 1, 4, 2)
    return rows.flatten(2, 3).flatten(0, 1).numpy()


def panel(axes: plt.Axes, x: Tensor, low: float, high: float) -> None:
    axes.set_axis_off()
    if x.ndim == 3:  # series: the first four, each with its channels
        for row, series in enumerate(x[::4]):
            axes.plot(series.T - 9 * row, linewidth=0.4)
        return
    image = mosaic(x, low, high)
    axes.imshow(image, cmap="gray", vmin=0, vmax=1) if image.shape[2] == 1 else axes.imshow(image)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=RESULTS / "networks.png")
    out = parser.parse_args().out
    names = demo.networks()
    figure, rows = plt.subplots(len(names), 2, figsize=(8, 1.35 * len(names)), layout="constrained")
    for name, (left, right) in zip(names, rows, strict=True):
        net = demo.network(name)
        data = net.decode(net.examples)
        low, high = (data.min(), data.max()) if name == "terrain" else (-1.0, 1.0)
        panel(left, data, low, high)
        panel(right, draw(net), low, high)
        left.set_title(f"{name}: data", fontsize=7)
        right.set_title(f"{name}: samples", fontsize=7)
    figure.savefig(out, dpi=110)


if __name__ == "__main__":
    main()
