"""The numbers of the default plan at few evaluations: levels and shares of `fastdiff.plans.tabulated`.

    python -m bench.defaults_search --use vp             # prints them as default_tables*.py have them
    python -m bench.defaults_search --use vp --without terrain series --evaluations 6
    python -m bench.defaults_search --use vp --again     # from the shipped ones, of each number and its neighbours

Adam on one table for all problems of a use, from the table of the nearest number of evaluations. The loss is the mean
over mixtures and that over networks, of log(geometric mean over samples) and log(root mean square) of the distance from
the converged solution, in halves; on each problem more where that is above ALLOWED times the best of Euler, midpoint
and Heun.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from fastdiff.plans.default_tables import GUIDED, TABLES
from fastdiff.plans.tabulated import Table

from .defaults import is_exact
from .mixtures import tuned_on
from .problems import Problem, digits, network_problems
from .tuned import Tuned

MEMORY = 4  # predictions that a step takes shares of
# Schedules of a use, those of its mixtures, and how dense its first levels are where there is most noise.
USES = {
    "flow": (("flow",), ("flow",), 1.5),
    "vp": (("vp",), ("vp",), 2.0),
    "ve": (("ve",), ("edm",), 2.0),
    "guided": (("flow", "vp", "ve"), ("flow", "vp"), 2.0),
}
GUIDANCE = 3.0
ALLOWED = 1.15  # times the error of the best simple rule; 1.3 is what other problems and other noise may make of it
# Each begins at the nearest that has been found.
EVALUATIONS = {
    "flow": (6, 5, 4, 7, 8, 9, 10),
    "vp": (6, 4, 10, 12, 8, 11, 13, 5, 9, 7, 14, 15, 16, 17, 18, 19),
    "ve": (6, 5, 4, 7, 8, 9),
    "guided": (5, 4),
}
AGAIN = (10, 11, 9, 8, 12, 13, 14, 15, 16, 17, 18, 19, 7, 6, 5, 4)  # the order then, of those that a use has
SAMPLES, NETWORK_SAMPLES, FIRST_SEED = 32, 8, 1000  # other seeds of the networks than those that judge


def problems(use: str, without: Sequence[str] = ()) -> tuple[list[Problem], list[Problem]]:
    """Mixtures, and networks but for some."""
    (kinds, mixed, _), guidance = USES[use], GUIDANCE if use == "guided" else None
    networks = [digits(guidance), *network_problems()]
    names = [p.name.split(",")[0] for p in networks]
    if unknown := set(without) - set(names):
        raise ValueError(f"without: expected names of networks, got {', '.join(unknown)}")
    kept = [p for p, name in zip(networks, names, strict=True) if p.guidance == guidance and name not in without]
    mixtures = [p for kind in mixed for p in tuned_on(kind, guidance)]
    return mixtures, [p for p in kept if p.schedule.kind in kinds]


def tuned(problem: Problem) -> Tuned:
    if is_exact(problem):
        return Tuned.of(problem, list(range(SAMPLES)))
    problem.model.requires_grad_(False)
    return Tuned.of(problem, list(range(FIRST_SEED, FIRST_SEED + NETWORK_SAMPLES)))


def unpacked(numbers: Tensor, evaluations: int) -> tuple[Tensor, list[Tensor]]:
    """Levels [evaluations - 1] as products of ratios in (0, 1), and shares that sum to 1, oldest first."""
    levels, free = numbers[: evaluations - 1].sigmoid().cumprod(0), numbers[evaluations - 1 :]
    older = free.split([min(i, MEMORY - 1) for i in range(evaluations)])
    return levels, [torch.cat([o, 1 - o.sum(0, keepdim=True)]) for o in older]


def packed(table: Table) -> Tensor:
    """The inverse of `unpacked`."""
    levels = torch.tensor([1.0, *table.levels], dtype=torch.float64)
    return torch.cat([(levels[1:] / levels[:-1]).logit(), torch.tensor(sum(table.shares, ()), dtype=torch.float64)])


def beginning(evaluations: int, density: float) -> Table:
    """Levels uniform in a function that is steeper at both ends, and Adams-Bashforth's second order, damped."""
    r = np.arange(evaluations - 1, 0, -1) / evaluations
    levels = r**1.5 / (r**1.5 + (1 - r) ** density)
    older = tuple((0.0,) * min(i, MEMORY - 2) + (-0.7,) for i in range(evaluations - 1))
    return Table(tuple(levels.tolist()), older)


def neighbour(table: Table, evaluations: int) -> Table:
    """A table of so many evaluations with the same levels and shares by the share of the run that is over."""
    steps = len(table.shares)
    places = np.linspace(0, 1, evaluations + 1)
    levels = np.interp(places[1:-1], np.linspace(0, 1, steps + 2), [1.0, *table.levels, 0.0])
    newest_first = np.array([[*reversed(s), *[0.0] * (MEMORY - 1 - len(s))] for s in table.shares])
    places = np.linspace(0, 1, evaluations - 1), np.linspace(0, 1, steps)
    older = np.stack([np.interp(*places, column) for column in newest_first.T], axis=1)
    return Table(
        tuple(levels.tolist()), tuple(tuple(s[: min(i + 1, MEMORY - 1)][::-1].tolist()) for i, s in enumerate(older))
    )


def loss(one: Tuned, numbers: Tensor, evaluations: int, weight: float) -> Tensor:
    e = one.distances(*unpacked(numbers, evaluations))
    quarter = len(e) // 4
    middle, rmse = e.sort().values[quarter : len(e) - quarter].log().mean(), 0.5 * e.square().mean().log()
    median, least = one.simple(evaluations)
    bound = math.log(ALLOWED)
    behind = (middle - math.log(median) - bound).relu() + 0.5 * (rmse - math.log(least) - bound).relu()
    return weight * 0.5 * (e.log().mean() + rmse) + behind


def searched(groups: Sequence[list[Tuned]], begin: Table, iterations: int, rate: float = 0.04) -> tuple[Table, float]:
    """The table of least loss on the way, and the loss."""
    evaluations = len(begin.levels) + 1
    numbers = packed(begin).requires_grad_()
    best, found = math.inf, numbers.detach().clone()
    optimizer = torch.optim.Adam([numbers], betas=(0.9, 0.98))
    for i in range(iterations):
        optimizer.param_groups[0]["lr"] = rate * (1 - i / iterations) + rate / 40
        optimizer.zero_grad()
        total = 0.0
        for one, weight in ((one, 1 / len(group)) for group in groups for one in group):
            value = loss(one, numbers, evaluations, weight)
            value.backward()
            total += value.item()
        if total < best:
            best, found = total, numbers.detach().clone()
        torch.nn.utils.clip_grad_norm_([numbers], 20.0)
        optimizer.step()
    levels, shares = unpacked(found, evaluations)
    rows = tuple(tuple(round(v, 4) for v in share[:-1].tolist()) for share in shares[1:])
    return Table(tuple(round(v, 4) for v in levels.tolist()), rows), best


def beginnings(use: str, evaluations: int, tables: dict[int, Table], again: bool) -> list[Table]:
    """Where to search from: the nearest of the tables, or all that are at most one evaluation away."""
    if not tables:
        return [beginning(evaluations, USES[use][2])]
    near = sorted(tables, key=lambda m: abs(m - evaluations))
    return [neighbour(tables[m], evaluations) for m in near if m == near[0] or (again and abs(m - evaluations) <= 1)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--use", choices=USES, default="flow")
    parser.add_argument("--without", nargs="+", default=(), help="networks that are held out")
    parser.add_argument("--evaluations", nargs="+", type=int, help="default: those of the use that have a table")
    parser.add_argument("--again", action="store_true", help="improve the shipped tables")
    parser.add_argument("--iterations", type=int, default=60)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    use, again = arguments.use, arguments.again
    groups = [[tuned(p) for p in found] for found in problems(use, arguments.without)]
    tables = dict(GUIDED if use == "guided" else TABLES[use]) if again else {}
    order = [n for n in AGAIN if n in tables] if again else EVALUATIONS[use]
    for n in arguments.evaluations or order:
        iterations = arguments.iterations if tables else 2 * arguments.iterations
        found = [searched(groups, begin, iterations) for begin in beginnings(use, n, tables, again)]
        tables[n], value = min(found, key=lambda each: each[1])
        print(f"    {n}: {tables[n]},  # {value:.3f}", flush=True)


if __name__ == "__main__":
    main()
