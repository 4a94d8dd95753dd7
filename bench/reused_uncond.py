"""Guidance with fewer unconditional calls: how far from the converged guided solution, at equal network calls.

    python -m bench.reused_uncond                          # into bench/results/reused_uncond.json and .md
    python -m bench.reused_uncond --quick --out build/quick

The problems: a Gaussian conditioned by another one, a component conditioned by its mixture, both with exact posterior
means, and the shipped digits network; each with guidance 3 and DPM-Solver++ 2M. What is in the JSON file is kept.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from pathlib import Path

import torch
from torch import Tensor

import fastdiff as fd
from fastdiff.guidance import CFG, Guidance, Point, ReuseUncond, Rule, calls

from .guided_problems import GuidedProblem, digits, gaussians, mixture
from .machine import processor
from .store import Store

RESULTS = Path(__file__).parent / "results"
SCALE = 3.0
BUDGETS = (12, 18, 24, 36, 48)
INTERVALS = ((0.1, 2.0), (0.2, 5.0), (0.05, 10.0), (0.5, 10.0), (0.3, 3.0))
KEPT = {"difference": "u - c", "output": "u"}
SOLVER, CONVERGED = "dpmpp_2m", 400


class FasterCache(Guidance):
    """CFG where every second evaluation takes u - c from the one before, in two bands of frequencies (Lv et al. 2025).

    weight: what multiplies the low frequencies in the first half of the run and the high ones in the second; 1.1 by
    default in diffusers, whose bands these are. For images; a run needs one of its own.
    """

    def __init__(self, scale: float, weight: float = 1.1) -> None:
        self.scale, self.weight = scale, weight
        self.difference: Tensor | None = None

    def rule(self, point: Point) -> Rule:
        if point.i % 2 == 0:
            return Rule((0, 1), combine=self._whole)
        return Rule((0,), combine=self._early if 2 * point.i < point.n else self._late)

    def _whole(self, x: Tensor, outputs: list[Tensor]) -> Tensor:
        c, u = outputs
        self.difference = u - c
        return c + (1 - self.scale) * self.difference

    def _early(self, x: Tensor, outputs: list[Tensor]) -> Tensor:
        return outputs[0] + (1 - self.scale) * self._weighted(low=self.weight, high=1.0)

    def _late(self, x: Tensor, outputs: list[Tensor]) -> Tensor:
        return outputs[0] + (1 - self.scale) * self._weighted(low=1.0, high=self.weight)

    def _weighted(self, low: float, high: float) -> Tensor:
        assert self.difference is not None
        height, width = self.difference.shape[-2:]
        rows, columns = torch.fft.fftfreq(height, 1 / height)[:, None], torch.fft.fftfreq(width, 1 / width)
        inside = rows**2 + columns**2 <= (min(height, width) // 5) ** 2
        self.difference = torch.fft.ifft2(torch.fft.fft2(self.difference) * torch.where(inside, low, high)).real
        return self.difference


def contestants(problem: GuidedProblem) -> dict[str, Callable[[fd.Plan], Guidance]]:
    """By name: the guidance for a plan."""
    found: dict[str, Callable[[fd.Plan], Guidance]] = {"CFG": lambda plan: CFG(SCALE)}
    for low, high in INTERVALS:
        found[f"interval ({low:g}, {high:g}]"] = lambda plan, low=low, high=high: CFG(SCALE, interval=(low, high))
    if len(problem.shape) == 3:
        found["FasterCache, every 2"] = lambda plan: FasterCache(SCALE)
    for every, of in product((2, 3), KEPT):
        for order in (0, 1, 2):
            parts = (every, order, of)
            found[f"{KEPT[of]} of order {order}, every {every}"] = lambda plan, parts=parts: ReuseUncond(SCALE, *parts)
        fit = partial(fitted, problem, every=every, of=of)
        found[f"{KEPT[of]} fitted, every {every}"] = lambda plan, fit=fit: fit(plan)
    return found


def fitted(problem: GuidedProblem, plan: fd.Plan, every: int, of: str) -> ReuseUncond:
    """Coefficients from runs with full guidance on other noise."""
    recorded: tuple[list[Tensor], list[Tensor]] = ([], [])

    def record(x: Tensor, outputs: list[Tensor]) -> Tensor:
        for kept, m in zip(recorded, outputs, strict=True):
            kept.append(m.clone())
        return outputs[1] + SCALE * (outputs[0] - outputs[1])

    class Recorder(Guidance):
        def rule(self, point: Point) -> Rule:
            return Rule((0, 1), combine=record)

    problem.draw(plan, Recorder(), range(10**6, 10**6 + 64))
    return ReuseUncond.fit(SCALE, *recorded, every=every, order=1, of=of)


def plan_within(problem: GuidedProblem, make: Callable[[fd.Plan], Guidance], budget: int) -> fd.Plan:
    """The plan of the most steps whose calls stay within the budget."""

    def count(steps: int) -> int:
        plan = problem.plan(SOLVER, steps)
        return calls(plan, make(plan)).total

    return problem.plan(SOLVER, max(steps for steps in range(2, budget + 1) if count(steps) <= budget))


def measurements(problem: GuidedProblem, budgets: tuple[int, ...]) -> Iterator[tuple[dict, Callable[[Tensor], dict]]]:
    """(key, what measures it against the exact samples) of every contestant at every budget."""
    for name, make in contestants(problem).items():
        for budget in budgets:
            # A fit needs the plan, and its calls are those of any order.
            like = make if "fitted" not in name else lambda plan, e=int(name[-1]): ReuseUncond(SCALE, e, 0)

            def run(exact: Tensor, make=make, like=like, budget=budget) -> dict:
                plan = plan_within(problem, like, budget)
                errors = (problem.draw(plan, make(plan), range(len(exact))) - exact).square().flatten(1).mean(1).sqrt()
                return {
                    "steps": plan.nfe,
                    "median": float(errors.median()),
                    "rmse": float(errors.square().mean().sqrt()),
                }

            yield {"problem": problem.name, "contestant": name, "calls": budget}, run


def write(store: Store, out: Path) -> None:
    parts = [
        "# Fewer unconditional calls",
        f"`python -m bench.reused_uncond`, torch {torch.__version__}, {processor()}. The median over samples of the"
        " root mean square distance from the converged solution with full guidance 3, by network calls for a sample;"
        " DPM-Solver++ 2M on the log-SNR grid with as many steps as the calls allow.",
        f"Interval: the best of {len(INTERVALS)} intervals of sigma / alpha, chosen in hindsight for each number;"
        " outside of it there is no guidance, so that it goes to another solution. The others are"
        " `fd.guidance.ReuseUncond`: the unconditional output u, or its difference from the conditional c, is a"
        " polynomial of some order through the latest ones, of which one in two or three is evaluated; fitted: by least"
        " squares on 64 other runs.",
    ]
    for problem in dict.fromkeys(row["problem"] for row in store.rows):
        rows = store.select(problem=problem)
        budgets = sorted({row["calls"] for row in rows})
        head = " | ".join(f"{n} calls" for n in budgets)
        lines = [f"| {problem} | {head} |", "|---" * (len(budgets) + 1) + "|"]
        best = {n: min((r for r in rows if r["calls"] == n), key=lambda r: r["median"])["contestant"] for n in budgets}
        for name in dict.fromkeys(_shown(row["contestant"]) for row in rows):
            found = {n: [r for r in rows if r["calls"] == n and _shown(r["contestant"]) == name] for n in budgets}
            least = {n: min(f, key=lambda r: r["median"]) for n, f in found.items()}
            cells = (_marked(f"{r['median']:.2g}", best[n] == r["contestant"]) for n, r in least.items())
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
        parts.append("\n".join(lines))
    (out / "reused_uncond.md").write_text("\n\n".join(parts) + "\n")


def _marked(text: str, best: bool) -> str:
    return f"**{text}**" if best else text


def _shown(name: str) -> str:
    return "interval" if name.startswith("interval") else name


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--quick", action="store_true", help="few samples and calls, to see that it runs")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    store = Store(options.out / "reused_uncond.json")
    samples, budgets = (8, BUDGETS[:1]) if options.quick else (128, BUDGETS)
    for problem in (gaussians(), mixture(), digits()):
        exact: Tensor | None = None
        for key, run in measurements(problem, budgets):
            if store.has(key):
                continue
            if exact is None:
                exact = problem.draw(problem.plan(SOLVER, CONVERGED), CFG(SCALE), range(samples))
            store.add(key, [run(exact)])
    write(store, options.out)


if __name__ == "__main__":
    main()
