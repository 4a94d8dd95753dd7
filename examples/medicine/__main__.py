"""Train, print the tables, and with --out draw slices."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import fastdiff as fd

from ..posterior.scans import resonance
from ..posterior.show import best
from ..posterior.table import table
from . import __doc__ as about
from . import brain
from .methods import inferred, reconstructions, schedulers
from .network import train

FREQUENCIES = (0, 1, -1, 2, -2, 3, -3, 5, -7, 10, -14, 19)
NOISE = 0.05  # of the measurements, in both parts; the brightest tissue is 2 above the background
HEAD = ("scheduler", "evaluations", "distance")


def distance(x: Tensor, converged: Tensor) -> float:
    """The median over slices of the root mean square over points."""
    return float((x - converged).square().flatten(1).mean(1).sqrt().median())


def draw_picture(lines: dict[str, Tensor], path: Path) -> None:
    """Four slices of each, one line below the other."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from PIL import Image

    figure, axes = plt.subplots((len(lines) + 1) // 2, 2, figsize=(8, 0.62 * len(lines)), layout="constrained")
    for axis in axes.flat:
        axis.set_axis_off()
    for axis, (name, x) in zip(axes.flat, lines.items(), strict=False):
        axis.imshow(torch.cat(list(x[:4, 0]), 1).numpy(), cmap="gray", vmin=-1, vmax=1)
        axis.set_title(name, fontsize=8)
    figure.set_dpi(72)
    figure.canvas.draw()
    grey = Image.fromarray(np.asarray(figure.canvas.buffer_rgba())[..., :3]).convert("L")
    grey.quantize(16).save(path, optimize=True)
    plt.close(figure)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(about or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few steps of training, draws and members")
    parser.add_argument("--out", type=Path, help="folder for a picture")
    asked = parser.parse_args(argv)
    steps, draws, counts, many, members, budgets = (
        (2, 2, (4,), 16, 2, (6,)) if asked.quick else (2000, 16, (4, 6, 8, 10), 100, 19, (20, 60))
    )
    slices = brain.volume()
    seen, truth = brain.trained_on(slices), brain.coarse(slices[list(brain.KEPT[: 1 if asked.quick else None])])
    net = train(seen, steps)
    print(f"\n### drawn\n\n{'| ' + ' | '.join(HEAD) + ' |'}\n|{'---|' * len(HEAD)}")
    noise = fd.noise.randn((draws, *net.shape), range(draws))
    converged, lines = inferred(schedulers()["PlanScheduler"], net, noise, many), {}
    for evaluations in counts:
        for name, scheduler in schedulers().items():
            x = inferred(scheduler, net, noise, evaluations)
            lines[f"{name}, {evaluations} evaluations"] = x
            print(f"| {name} | {evaluations} | {distance(x, converged):.4f} |", flush=True)
    problem = replace(resonance(net, truth, NOISE, FREQUENCIES), where=truth > -0.9)
    torch.manual_seed(1)  # of the prior, however long the training was
    prior = fd.GaussianStart.estimate(brain.moved(seen, 20 * members), net.schedule, 2 * members)
    for passes in budgets:
        found = [best(name, tried, problem, members, passes) for name, tried in reconstructions(prior).items()]
        print(f"\n### {problem.name}, {passes} passes\n\n{table(problem, found)}", flush=True)
    if asked.out is not None:
        shown = {name: x for name, x in lines.items() if name.endswith(f", {counts[0]} evaluations")}
        shown |= {f"converged, {many}": converged, "kept from the training": truth, problem.start_name: problem.start}
        for each in found:
            shown |= {f"{each.name}: a member": each.x[0], f"{each.name}: mean": each.x.mean(0)}
        asked.out.mkdir(parents=True, exist_ok=True)
        draw_picture(shown, asked.out / "medicine.png")


if __name__ == "__main__":
    main()
