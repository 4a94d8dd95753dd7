"""Fits that may choose cheap rows, beside fits of full ones and beside everything unfitted, at equal cost.

    python -m bench.partial_fits              # into bench/results/partial_fits.md; a quarter of an hour of an idle core

Fits see other noise (seeds from 10^6) than they are judged on. `--work` keeps them; an interrupted run goes on there.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import torch

import fastdiff as fd
from fastdiff.commands.fit import FIRST_SEED
from fastdiff.sampling.noise import randn

from .machine import processor
from .partial import BUDGETS, SPLITS, Problem, Run, at_equal_cost, cached, call_costs, hosts, ours, plain
from .partial_costs import Cost

RESULT = Path(__file__).parent / "results" / "partial_fits.md"
FITTED_TO, JUDGED, ORDER = 16, 32, 1
COSTS = BUDGETS[:2]


def fits(problem: Problem, found: dict[str, Cost], work: Path) -> Iterator[tuple[Run, fd.Plan]]:
    """For each cost the fit of full rows and the one that may choose cheap ones, by multiply-adds."""
    net, split = problem.net, next(iter(SPLITS[problem.net.name]))
    kind = f"{split}, order {ORDER}"
    noise = randn((FITTED_TO, *net.shape), range(FIRST_SEED, FIRST_SEED + FITTED_TO))
    options = {"prediction": net.prediction, "folder": work / net.name, **net.conditions(range(FITTED_TO))}
    for cost in COSTS:
        model = cached(problem, split, ORDER)
        cheap = fd.fit(model, net.schedule, cost, noise, cheap=found[kind].operations, **options)
        full = fd.fit(
            net.model, net.schedule, cost, noise, **options
        )  # from the folder: the same but for its last stage
        for name, plan in (("fit, full rows", full), ("fit, cheap rows allowed", cheap)):
            count = sum(row.call == "cheap" for row in plan.rows)
            yield Run(name, "", plan.nfe - count, count, kind, problem.error(model, plan)), plan


def section(name: str, repeats: int, work: Path) -> str:
    problem = Problem(name, JUDGED)
    found = call_costs(problem, repeats)
    fitted = list(fits(problem, found, work))
    runs = [*plain(problem), *ours(problem), *hosts(problem), *(run for run, _ in fitted)]
    chosen = "; ".join(f"at {cost} {told(plan)}" for cost, (_, plan) in zip(COSTS, fitted[1::2], strict=True))
    shares = at_equal_cost(runs, lambda run: found[run.kind].operations if run.kind else 0.0, "full calls", COSTS)
    return f"## {name}: {problem.solver} on the grid {problem.grid}\n\n{shares}\n\nChosen: {chosen}."


def told(plan: fd.Plan) -> str:
    """The rows' calls in a word."""
    if not plan.partial:
        return f"{plan.nfe} full rows"
    return f"`{''.join('F' if row.call == 'full' else 'c' for row in plan.rows)}`"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5, help="of each call that is timed")
    parser.add_argument("--work", type=Path, default=Path("build/partial_fits"), help="where fits are kept")
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    torch.set_num_threads(1)
    parts = ["# Fits that choose cheap rows", introduction()]
    for name in SPLITS:
        parts.append(section(name, options.repeats, options.work))
        options.out.write_text("\n\n".join(parts) + "\n")


def introduction() -> str:
    return (
        f"`python -m bench.partial_fits`, torch {torch.__version__}, {processor()}. As in `partial.md`, with {JUDGED}"
        f" samples that judge and costs by multiply-adds. Fits are forward fits to {FITTED_TO} other samples, by"
        f" `fd.fit(model, ...)` and `fd.fit(fd.cached(model, order={ORDER}), ...)` with the cost of a cheap call as it"
        " is counted; the split is the first of the network's, a U-Net's level or a transformer's blocks."
        " F is a full row, c a cheap one."
    )


if __name__ == "__main__":
    main()
