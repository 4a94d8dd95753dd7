"""A grid by dynamic programming over the curvature of converged runs (GITS: Chen et al. 2024, arXiv 2405.11326)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..plans.schedule import Points
from ..plans.solvers.exponential import first_order

MAX_POINTS = 100  # of a run that the programme chooses from; twice as many as the steps where those are more


def jump_costs(points: Points, states: Tensor, data: Tensor) -> np.ndarray:
    """[M + 1, M + 1]: the mean error of one first-order step from point i of a converged run to point j > i; else inf.

    states: [M + 1, N, ...] the run's x at each point. data: [M, N, ...] the x0 that the model predicted there.
    """
    count = len(states)
    costs = np.full((count, count), np.inf)
    for i in range(count - 1):
        for j in range(i + 1, count):
            a, d = first_order(points.at(i), points.at(j), "data")
            error = a * states[i].double() + d * data[i].double() - states[j].double()
            # An error in x at the noise level of j is one of about alpha times that in the result.
            costs[i, j] = float(error.flatten(1).square().mean(1).sqrt().mean())
    return costs


def cheapest_path(costs: np.ndarray, steps: int) -> list[int]:
    """The steps + 1 points from the first to the last whose jumps cost least in sum."""
    count = len(costs)
    # best[n, j]: the least cost of n jumps that end at point j; came[n, j]: where the last of them began.
    best = np.full((steps + 1, count), np.inf)
    came = np.zeros((steps + 1, count), dtype=int)
    best[0, 0] = 0.0
    for n in range(1, steps + 1):
        total = best[n - 1][:, None] + costs
        came[n], best[n] = total.argmin(0), total.min(0)
    path = [count - 1]
    for n in range(steps, 0, -1):
        path.append(int(came[n, path[-1]]))
    return path[::-1]


@torch.no_grad()
def dp_grid(points: Points, states: Tensor, data: Tensor, steps: int) -> Points:
    """`steps` of the points of a converged run; of a long one, of some of its points."""
    kept = np.unique(np.linspace(0, len(data), max(MAX_POINTS, 2 * steps) + 1).round().astype(int))
    costs = jump_costs(points.at(kept), states[kept], data[kept[:-1]])
    return points.at(kept[cheapest_path(costs, steps)])
