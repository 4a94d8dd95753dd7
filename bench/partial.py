"""Cheap calls against fewer steps and against diffusers' caches: how far from the converged solution, at equal cost.

    python -m bench.partial                        # into bench/results/partial.md; three minutes of an idle core

Set MALLOC_MMAP_MAX_=0 and MALLOC_TRIM_THRESHOLD_=100000000000, or glibc asks for fresh memory in every operation.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

import fastdiff as fd
from fastdiff import demo
from fastdiff.sampling.noise import randn

from . import partial_caches as caches
from .machine import processor
from .markdown import table
from .partial_costs import Cost, cheap_call, costs, hooked_calls, of_dit, of_unet
from .quality import measured

RESULT = Path(__file__).parent / "results" / "partial.md"
CONVERGED, SAMPLES = 150, 16
PLAIN = (4, 5, 6, 8, 10, 12, 16, 20, 24)
STEPS = (8, 12, 20)
SOLVERS = ("dpmpp_2m", "dpmpp_3m", "unipc", "deis", "ipndm")
BUDGETS = (6, 8, 12, 16)
ORDERS = (0, 1, 2)
GRIDS = ("logsnr", "time", "quadratic")
LEVEL = ("shrink.0", "down.1.0", "middle.0", "up.0.0", "grow.0")
DIGITS_LEVEL = ("shrink.0", "down.1.0", "down.1.1", "middle.0", "up.0.0", "up.0.1", "grow.0")
SMALL_UNET = {
    "level": fd.Split(LEVEL),
    "all": fd.Split(("conv_in", "down.0.0", *LEVEL, "up.1.0", "norm_out", "conv_out")),
}
SPLITS = {  # of the shipped networks, what a cheap call does not run
    "digits": {
        "level": fd.Split(DIGITS_LEVEL),
        "all": fd.Split(("conv_in", "down.0.0", "down.0.1", *DIGITS_LEVEL, "up.1.0", "up.1.1", "norm_out", "conv_out")),
    },
    "latent": SMALL_UNET,
    "terrain": SMALL_UNET,
    "mnist": {
        "blocks": fd.Split(("blocks.1", "blocks.2"), "blocks.0"),
        "all": fd.Split(("tokens_in", "blocks.0", "blocks.1", "blocks.2", "norm_out", "tokens_out")),
    },
}
THRESHOLDS = {"FirstBlockCache": (0.1, 0.2, 0.4), "MagCache": (0.06, 0.24)}
# Which rows after the first two are full: one in so many, between two shares of the run; outside of it all.
PATTERNS = {
    "every 2nd": (2, 0.0, 1.0), "every 3rd": (3, 0.0, 1.0), "every 3rd of the second half": (3, 0.5, 1.0),
}  # fmt: skip


class Run(NamedTuple):
    """One setting. full, cheap: its calls. kind: of its cheap calls, as in the costs."""

    contestant: str
    setting: str
    full: int
    cheap: int
    kind: str
    error: float


class Problem:
    """A shipped network, its noises and their converged samples."""

    def __init__(self, name: str, samples: int = SAMPLES) -> None:
        self.net = demo.network(name)
        self.noise = randn((samples, *self.net.shape), list(range(samples)))
        self.conditions = self.net.conditions(range(samples))
        self.converged = self.draw(self.net.model, self._planned("unipc", "logsnr", CONVERGED, order=3))
        self.solver, self.grid = min(product(SOLVERS, GRIDS), key=self._error_with)

    def _planned(self, solver: str, grid: str, steps: int, **options: int) -> fd.Plan:
        return fd.plan(solver, self.net.schedule, steps, grid=grid, prediction=self.net.prediction, **options)

    def _error_with(self, how: tuple[str, str]) -> float:
        return self.error(self.net.model, self._planned(*how, 12))

    def plan(self, steps: int) -> fd.Plan:
        """By the solver and on the grid that are best for 12 full calls."""
        return self._planned(self.solver, self.grid, steps)

    def draw(self, model: Callable, plan: fd.Plan) -> Tensor:
        x = fd.sample(model, plan, self.noise, **self.conditions)
        assert isinstance(x, Tensor)
        return x

    def error(self, model: Callable, plan: fd.Plan) -> float:
        """The median over samples of the root mean square distance from the converged ones."""
        return measured(self.draw(model, plan), self.converged)["median"]

    def call(self) -> tuple[Tensor, Tensor]:
        """x and t of one call, to be timed."""
        return self.noise, torch.full((len(self.noise),), self.plan(3).rows[1].t)


def cached(problem: Problem, split: str, order: int) -> fd.Cached:
    return fd.cached(problem.net.model, split=SPLITS[problem.net.name][split], order=order)


def pattern(name: str, steps: int) -> list[str]:
    every, begin, end = PATTERNS[name]
    return ["cheap" if i > 1 and (i - 1) % every and begin <= i / steps < end else "full" for i in range(steps)]


def plain(problem: Problem) -> Iterator[Run]:
    for steps in PLAIN:
        yield Run("fewer steps", "", steps, 0, "", problem.error(problem.net.model, problem.plan(steps)))


def ours(problem: Problem) -> Iterator[Run]:
    for split, order, name, steps in product(SPLITS[problem.net.name], ORDERS, PATTERNS, STEPS):
        calls, kind = pattern(name, steps), f"{split}, order {order}"
        error = problem.error(cached(problem, split, order), problem.plan(steps).with_calls(calls))
        counts = calls.count("full"), calls.count("cheap")
        yield Run(f"`cached` {split}, order {order}", f"{kind}, {name}", *counts, kind, error)


def hosts(problem: Problem) -> Iterator[Run]:
    """diffusers' caches on the transformer: they know no U-Net."""
    if not hasattr(problem.net.model, "blocks"):
        return
    for steps in STEPS:
        plan = problem.plan(steps)
        ratios = caches.mag_ratios(problem.net.model, caches.DEMO, steps, partial(problem.draw, plan=plan))
        applied = [("FirstBlockCache", "FirstBlockCache", caches.first_block(v)) for v in THRESHOLDS["FirstBlockCache"]]
        applied += [("MagCache", "MagCache", caches.mag(v, steps, ratios)) for v in THRESHOLDS["MagCache"]]
        for interval, (kind, whole) in [(i, k) for i in (2, 3) for k in (("blocks", False), ("lite", True))]:
            applied.append(("TaylorSeer", f"TaylorSeer, {kind}", caches.taylorseer(caches.DEMO, interval, whole)))
        for contestant, kind, apply in applied:
            hooked = caches.Hooked(problem.net.model, caches.DEMO, apply)
            error = problem.error(hooked, plan)
            yield Run(contestant, "", hooked.full, steps - hooked.full, kind, error)


def call_costs(problem: Problem, repeats: int) -> dict[str, Cost]:
    x, t = problem.call()
    kinds = [(split, order) for split in SPLITS[problem.net.name] for order in ORDERS]
    cheap = {
        f"{split}, order {order}": cheap_call(cached(problem, split, order), x, t, **problem.conditions)
        for split, order in kinds
    }
    if hasattr(problem.net.model, "blocks"):
        cheap |= hooked_calls(problem.net.model, caches.DEMO, x, t, **problem.conditions)
    return costs(lambda: problem.net.model(x, t, **problem.conditions), cheap, repeats)


def shares(found: dict[str, Cost]) -> str:
    rows = [[name, f"{cost.operations:.2f}", f"{cost.seconds:.2f}"] for name, cost in found.items()]
    return table(["cheap call", "multiply-adds", "seconds"], rows)


def at_equal_cost(runs: list[Run], share: Callable[[Run], float], what: str, budgets: Sequence[int] = BUDGETS) -> str:
    """The least error of each contestant within every budget, over its settings."""
    rows = []
    for contestant in dict.fromkeys(run.contestant for run in runs):
        cells = []
        for budget in budgets:
            within = [r.error for r in runs if r.contestant == contestant and r.full + r.cheap * share(r) <= budget]
            cells.append(f"{min(within):.3g}" if within else "")
        rows.append([contestant, *cells])
    for column in range(1, 1 + len(budgets)):
        best = min(rows, key=lambda row: float(row[column] or math.inf))
        best[column] = f"**{best[column]}**"
    return table([f"error within, {what}", *(str(budget) for budget in budgets)], rows)


def break_even(runs: list[Run]) -> str:
    """By setting and steps, what a cheap call may cost so that fewer steps of the same cost have the same error."""
    curve = [run for run in runs if not run.kind]
    errors, counts = (np.log([getattr(run, name) for run in curve]) for name in ("error", "full"))
    rows = []
    for setting in dict.fromkeys(run.setting for run in runs if run.setting):
        cells = []
        for run in (r for r in runs if r.setting == setting):
            needed = math.exp(np.interp(-math.log(run.error), -errors, counts))
            cells.append(f"{(needed - run.full) / run.cheap:.2f}")
        rows.append([setting, *cells])
    return table(["break-even", *(f"{steps} steps" for steps in STEPS)], rows)


def section(name: str, repeats: int) -> str:
    problem = Problem(name)
    kind = "a transformer" if hasattr(problem.net.model, "blocks") else "a U-Net"
    found = call_costs(problem, repeats)
    runs = [*plain(problem), *ours(problem), *hosts(problem)]
    parts = [
        f"## {name}: {kind}; {problem.solver} on the grid {problem.grid}",
        shares(found),
        at_equal_cost(runs, lambda run: found[run.kind].operations if run.kind else 0.0, "full calls by multiply-adds"),
        at_equal_cost(runs, lambda run: found[run.kind].seconds if run.kind else 0.0, "full calls by seconds"),
        break_even(runs),
    ]
    return "\n\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=20, help="of each call that is timed, on the small networks")
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    torch.set_num_threads(1)
    parts = ["# Cheap calls", told()]
    for title, costs_of in (("SD's U-Net at a quarter of its width", of_unet), ("PixArt of 12 blocks", of_dit)):
        found = costs_of(max(3, options.repeats // 5))
        seconds = next(iter(found.values())).full_seconds
        parts += [f"## What they cost: {title}, a full call {seconds:.2f} s", shares(found)]
    for name in SPLITS:
        parts.append(section(name, options.repeats))
    options.out.write_text("\n\n".join(parts) + "\n")


def told() -> str:
    return (
        f"`python -m bench.partial`, torch {torch.__version__}, {processor()}. Costs are shares of a full call: of its"
        " multiply-adds, and of its processor seconds in one thread, the shortest of many in turn. Errors are the"
        " median over samples of the root mean square distance from the converged solution, without guidance. Of the"
        f" solvers {', '.join(SOLVERS)} and the grids {', '.join(GRIDS)} all contestants have the pair that is best for"
        " 12 full calls. Every contestant shows the best of its settings that stay within the cost. `cached`: in"
        f" {', '.join(map(str, STEPS))} steps with every second or third call full after two, or every third of the"
        " second half and all before; level is a U-Net's outer one run by cheap calls, blocks a transformer's first,"
        " and all means that nothing is run and the output extrapolated, which is another solver. FirstBlockCache and"
        " MagCache (calibrated on the same noises) at several thresholds, TaylorSeer, whose order is 1, at intervals 2"
        " and 3. diffusers' caches know no U-Net; FasterCache and PyramidAttentionBroadcast know attentions of"
        " diffusers' classes alone, and the default pattern of TaylorSeer those alone whose name ends in attn."
        " Break-even: what a cheap call may cost for the run to be as good as fewer steps; below 0 it is worse than"
        " without the call, above 1 better than a full one."
    )


if __name__ == "__main__":
    main()
