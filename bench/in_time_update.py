"""The triangular update of a run parallel in time: rows in order, or one product of matrices?

    python -m bench.in_time_update                   # into bench/results/in_time_update.md

A plan's run is linear in x_0, in what the model says and in the noises: X = T x_0 + W M + N xi with lower triangular W.
So the states of all rows follow from all outputs by one product, or by running the rows in order, a launch each.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

import fastdiff as fd
from fastdiff.plans.plan import Plan
from fastdiff.sampling.in_time.rows import Outputs, Rows
from fastdiff.sampling.registers import Registers, advance, moves_of

from .machine import processor
from .markdown import table

RESULTS = Path(__file__).parent / "results" / "in_time_update.md"
SHAPES = ((1, 1, 8, 8), (1, 4, 64, 64), (4, 4, 64, 64))
ROWS = (16, 50, 100)
SOLVERS = ("ddim", "dpmpp_2m")
TIMES = 15


class LinearMap(NamedTuple):
    """The states of a run as x_i = start[i] x_0 + outputs[i] M + noises[i] xi, float64.

    start: [rows + 1]. outputs: [rows + 1, rows], lower triangular. noises: [rows + 1, count]; indices: [count] theirs.
    """

    start: np.ndarray
    outputs: np.ndarray
    noises: np.ndarray
    indices: tuple[int, ...]


def linear_map(plan: Plan) -> LinearMap:
    """The map of a plan's run: its rows, run on unit vectors."""
    indices = tuple(sorted({j for row in plan.rows for line in (row.x, row.base) if line for j, _ in line.noise}))
    n, unit = plan.nfe, np.eye(1 + plan.nfe + len(indices))
    states, registers = [unit[0]], Registers(unit[0], unit[0])
    for i, (row, move) in enumerate(zip(plan.rows, moves_of(plan.rows), strict=True)):

        def step(
            x: np.ndarray, base: np.ndarray, history: tuple[np.ndarray, ...]
        ) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
            d = row.p_x * x + row.p_m * unit[1 + i]  # noqa: B023 - called here

            def line(update: fd.plans.row.LinearUpdate) -> np.ndarray:
                found = update.base * base + update.x * x
                for weight, value in zip(update.history, (d, *history), strict=False):
                    found = found + weight * value
                for j, weight in update.noise:
                    found = found + weight * unit[1 + n + indices.index(j)]
                return found

            return line(row.x), None if row.base is None else line(row.base), d  # noqa: B023

        registers = advance(registers, move, step)
        states.append(registers.x)
    whole = np.stack(states)
    return LinearMap(whole[:, 0], whole[:, 1 : 1 + n], whole[:, 1 + n :], indices)


def in_order(rows: Rows, x: Tensor, outputs: Tensor) -> Tensor:
    """[rows + 1, B, ...] the states, by running the rows."""
    registers, states = Registers(x, x), [x]
    for i, m in enumerate(outputs):
        registers = rows.run(i, registers, Outputs(m))
        states.append(registers.x)
    return torch.stack(states)


def seconds(run: Callable[[], object]) -> tuple[float, float]:
    """(best, median) of many."""
    found = []
    for _ in range(TIMES):
        began = time.perf_counter()
        run()
        found.append(time.perf_counter() - began)
    return min(found), statistics.median(found)


def measured(solver: str, n: int, shape: tuple[int, ...]) -> list[str]:
    """A row of the table. Both are right before they are timed."""
    plan = fd.plan(solver, fd.Schedule.flow(), n)
    generator = torch.Generator().manual_seed(0)
    x, outputs = torch.randn(shape, generator=generator), torch.randn(n, *shape, generator=generator)
    rows, found = Rows(plan, x, None, None, None, None), linear_map(plan)
    weights = torch.from_numpy(np.concatenate([found.start[:, None], found.outputs], axis=1)).float()
    flat = torch.cat([x[None], outputs]).flatten(1)

    def product() -> Tensor:
        return weights @ flat

    want = in_order(rows, x, outputs)
    torch.testing.assert_close(product().view(want.shape), want, rtol=2e-5, atol=2e-5 * float(want.abs().max()))
    ordered, multiplied = seconds(lambda: in_order(rows, x, outputs)), seconds(product)
    cells = [f"{1e3 * value:.3g}" for value in (*ordered, *multiplied)]
    return [solver, str(n), "x".join(map(str, shape)), *cells, f"{ordered[0] / multiplied[0]:.2f}"]


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    cases = [(solver, n, shape) for solver in SOLVERS for shape in SHAPES for n in ROWS]
    head = ["solver", "rows", "shape", "in order, best", "median", "product, best", "median", "ratio of the best"]
    parts = [
        "# The update of all states at once",
        f"`python -m bench.in_time_update`, torch {torch.__version__}, {processor()}. Milliseconds, float32, one thread"
        " of a machine that others use too: read the ratios. In order: the rows' kernels one after the other, as"
        " `fd.sample_in_time` does. Product: one product of the plan's [rows + 1, rows + 1] matrix and all outputs.",
        table(head, [measured(*case) for case in cases]),
    ]
    options.out.write_text("\n\n".join(parts) + "\n")
    print(options.out.read_text())


if __name__ == "__main__":
    main()
