"""The numbers of the default plan at few evaluations: levels and shares of `fastdiff.plans.tabulated`.

    python -m bench.defaults_search --evaluations 4 5 6        # prints them as default_tables.py has them

Adam on one table for all problems of `mixtures.tuned_on`, from where Adams-Moulton's step stands. The loss is the mean
over problems of log(geometric mean over samples) and log(root mean square) of the distance from the converged solution,
in halves, and more where the table loses to the best of Euler, midpoint and Heun.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass
from functools import cache
from itertools import chain

import torch
from torch import Tensor

from fastdiff.plans.tabulated import Table

from .defaults import SIMPLE
from .mixtures import Exact, tuned_on
from .quality import Study, measured, plan_within

MEMORY = 4  # predictions that a step takes shares of
RHO = 1.35  # of the first levels
MARGIN = 1.1  # how much worse than the best simple rule is not punished further


@dataclass(frozen=True)
class Tuned:
    """A problem in x / (alpha + sigma), its noise there, and its converged samples."""

    problem: Exact
    start: float  # sigma / (alpha + sigma)
    noise: Tensor
    exact: Tensor

    @classmethod
    def of(cls, problem: Exact, samples: int) -> Tuned:
        seeds = list(range(samples))
        point = problem.schedule.at(problem.schedule.t_max)
        start = float(point.sigma / (point.alpha + point.sigma))
        return cls(problem, start, start * problem.noise(seeds), Study(problem, samples, 0).converged(seeds))

    def distances(self, levels: Tensor, shares: list[Tensor]) -> Tensor:
        """Root mean square distance of each sample, by the table."""
        x, data = self.noise, []
        points = [torch.tensor(self.start, dtype=torch.float64), *levels, torch.zeros(())]
        for s, t, share in zip(points, points[1:], shares, strict=False):
            data.append(self.problem.mean(x, 1 - s, s))
            mean = sum(w * d for w, d in zip(share, data[-len(share) :], strict=True))
            x = t / s * x + (1 - t / s) * mean
        return (x - self.exact).square().mean(1).sqrt()

    @cache  # noqa: B019 lives as long as the search
    def simple(self, evaluations: int) -> tuple[float, float]:
        """The least median and the least root mean square error of Euler, midpoint and Heun."""
        plans = [plan_within(self.problem, rule, evaluations, "time") for rule in SIMPLE.values()]
        seeds = list(range(len(self.noise)))
        found = [measured(self.problem.draw(plan, seeds), self.exact) for plan in plans if plan is not None]
        return min(f["median"] for f in found), min(f["rmse"] for f in found)


def unpacked(numbers: Tensor, evaluations: int) -> tuple[Tensor, list[Tensor]]:
    """Levels [evaluations - 1] as products of ratios in (0, 1), and shares that sum to 1, oldest first."""
    levels, free = numbers[: evaluations - 1].sigmoid().cumprod(0), numbers[evaluations - 1 :]
    older = free.split([min(i, MEMORY - 1) for i in range(evaluations)])
    return levels, [torch.cat([o, 1 - o.sum(0, keepdim=True)]) for o in older]


def beginning(evaluations: int) -> Tensor:
    """The grid "power", and Adams-Bashforth's second order, damped."""
    levels = torch.linspace(1, 0, evaluations + 1, dtype=torch.float64) ** RHO
    ratios = levels[1:-1] / levels[:-2]
    older = [[0.0] * (min(i, MEMORY - 1) - 1) + [-0.8] for i in range(1, evaluations)]
    return torch.cat([ratios.logit(), torch.tensor(list(chain(*older)), dtype=torch.float64)])


def loss(tuned: list[Tuned], numbers: Tensor, evaluations: int) -> Tensor:
    total = torch.zeros((), dtype=torch.float64)
    for one in tuned:
        e = one.distances(*unpacked(numbers, evaluations))
        rmse, (median, least) = 0.5 * e.square().mean().log(), one.simple(evaluations)
        total = total + 0.5 * (e.log().mean() + rmse)
        total = total + 0.5 * (e.median().log() - math.log(MARGIN * median)).relu()
        total = total + 0.25 * (rmse - math.log(MARGIN * least)).relu()
    return total / len(tuned)


def searched(tuned: list[Tuned], evaluations: int, iterations: int, numbers: Tensor) -> tuple[Table, float]:
    numbers = numbers.clone().requires_grad_()
    best, found = math.inf, numbers.detach().clone()
    optimizer = torch.optim.Adam([numbers], lr=0.03, betas=(0.9, 0.98))
    for i in range(iterations):
        optimizer.param_groups[0]["lr"] = 0.03 * (1 - i / iterations)
        optimizer.zero_grad()
        value = loss(tuned, numbers, evaluations)
        value.backward()
        if value.item() < best:
            best, found = value.item(), numbers.detach().clone()
        optimizer.step()
    levels, shares = unpacked(found, evaluations)
    rows = tuple(tuple(round(v, 4) for v in share[:-1].tolist()) for share in shares[1:])
    return Table(tuple(round(v, 4) for v in levels.tolist()), rows), best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--evaluations", nargs="+", type=int, default=(4, 5))
    parser.add_argument("--guidance", type=float, help="of guided mixtures (default: none)")
    parser.add_argument("--samples", type=int, default=96)
    parser.add_argument("--iterations", type=int, default=200)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    tuned = [Tuned.of(problem, arguments.samples) for problem in tuned_on(arguments.guidance)]
    for evaluations in arguments.evaluations:
        table, value = searched(tuned, evaluations, arguments.iterations, beginning(evaluations))
        print(f"    {evaluations}: {table},  # {value:.3f}", flush=True)


if __name__ == "__main__":
    main()
