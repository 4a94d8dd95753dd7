"""A terrain-like field that a known flow carries past a few stations, from what they measured in a window of times.

python -m examples.posterior.field [--quick] [--out FOLDER] [--peers]
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import torch
from scipy.interpolate import griddata
from torch import Tensor
from torch.nn.functional import grid_sample

from fastdiff import demo

from .problem import Problem, measured
from .show import run

SPREAD = 0.5


def paths(stations: int, times: int, turn: float = 0.5) -> Tensor:
    """[times, stations, 2] where in the field at time 0 the air comes from that each station measures, in [-1, 1].

    The flow turns about the middle, by `turn` radians from one time to the next.
    """
    generator = torch.Generator().manual_seed(3)
    radius = torch.rand(stations, generator=generator).sqrt() * 0.95
    angle = 2 * math.pi * torch.rand(stations, generator=generator) - turn * torch.arange(times)[:, None]
    return torch.stack([radius * angle.cos(), radius * angle.sin()], dim=-1)


def assimilation(net: demo.DemoNetwork, truth: Tensor, times: int, stations: int = 10, noise: float = 0.05) -> Problem:
    """y [B, times stations]: the field, bilinear between its points, along the paths: a matrix."""
    where, size = paths(stations, times), truth.shape[-1]
    basis = torch.eye(size**2).view(-1, 1, size, size)
    matrix = grid_sample(basis, where.expand(size**2, -1, -1, -1), align_corners=True).flatten(1).T
    y = measured(truth.flatten(1) @ matrix.T, noise)
    name = f"{stations} stations, {times} times"
    low, high = float(truth.min()), float(truth.max())
    start = between(where.flatten(0, 1), y, size)
    return Problem(name, net, truth, y, matrix, noise, start, "linear interpolation", low=low, high=high)


def between(points: Tensor, values: Tensor, size: int) -> Tensor:
    """[N, 1, size, size] linear between points [P, 2] with values [N, P]; beyond them, the nearest."""
    line = torch.linspace(-1, 1, size)
    y, x = torch.meshgrid(line, line, indexing="ij")
    linear, nearest = (
        torch.tensor(griddata(points.numpy(), values.T.numpy(), (x.numpy(), y.numpy()), method=method))
        for method in ("linear", "nearest")
    )
    return torch.where(linear.isnan(), nearest, linear).permute(2, 0, 1)[:, None].float()


def main(argv: Sequence[str] | None = None) -> None:
    run(argv, __doc__, demo.network("terrain"), [partial(assimilation, times=times) for times in (1, 6)], SPREAD)


if __name__ == "__main__":
    main()
