"""The plans that a fit can reach from one plan of the catalogue: a differentiable function of a few hundred numbers.

Every fitted linear solver in the literature is x' = sum_j a_j x_j + sum_k c_k D_k on learned times (Bespoke
Non-Stationary Solvers, arXiv 2403.01329; S4S, arXiv 2502.17423; Generalized Solver, arXiv 2510.17699). Here it is a
solver of the catalogue, rebuilt on the grid of the moment, plus corrections that begin at zero.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from ..plans.grid import LOG_SNR_CUT
from ..plans.plan import Plan
from ..plans.row import LinearUpdate, Row
from ..plans.schedule import Points, Schedule
from ..plans.table import MAX_HISTORY, OFFSET, WIDTH
from ..plans.turns import unknown_outputs

MIN_INTERVAL = 0.1  # an interval's length where two rows stand at one point
DIFFERENCE_STEP = 1e-6  # the tables are smooth in the grid and exact to 1e-16

# How far each kind of number is expected to move: the widths of the prior that holds a fit near the theory.
WIDTHS = {"grid": 0.5, "time": 0.3, "weight": 0.05}


class PlanSpace:
    """Tables [rows, WIDTH + 1] (a plan's table, then the time the model is told) as a function of numbers p [size].

    p = 0 is the plan itself. "grid": log of the factor of each interval in log-SNR; "time": how far the time that the
    model is told lies towards the next row's, as a share of the interval in log-SNR; "weight": what is added to a
    weight, in units of the row's weights on the outputs.
    """

    def __init__(self, build: Callable[[Points], Plan], schedule: Schedule, points: Points) -> None:
        self.schedule, self.points, self._build = schedule, points, build
        self.plan = build(points)
        finite = np.isfinite(points.log_snr)
        self._free = np.flatnonzero(finite[1:]) + 1
        self._weights = _weights(self.plan)
        self.kinds = np.array(
            ["grid"] * len(self._free) + ["time"] * self.plan.nfe + ["weight"] * len(self._weights), dtype=object
        )
        self.widths = np.array([WIDTHS[kind] for kind in self.kinds])

    @property
    def size(self) -> int:
        """How many numbers there are."""
        return len(self.kinds)

    @property
    def grid_size(self) -> int:
        """How many of them move the grid; they come first."""
        return len(self._free)

    def add_weights(self, p: np.ndarray, row: int, added: dict[int, float]) -> None:
        """Change p so that these are added to the row's weights, by their places in the flat row."""
        first = len(self._free) + self.plan.nfe
        for j, (i, place, scale) in enumerate(self._weights):
            if i == row and place in added:
                p[first + j] += added[place] / scale

    def table(self, p: np.ndarray) -> np.ndarray:
        """[rows, WIDTH + 1] float64."""
        grid, shift, weights = self._split(p)
        out = _numbers(self.rebuilt(grid), self.schedule, shift)
        for (row, place, scale), value in zip(self._weights, weights, strict=True):
            out[row, place] += scale * value
        return out

    def jacobian(self, p: np.ndarray) -> np.ndarray:
        """[rows, WIDTH + 1, size]: the derivative of `table`."""
        grid, shift, _ = self._split(p)
        out = np.zeros((self.plan.nfe, WIDTH + 1, self.size))
        plan = self.rebuilt(grid)
        here = _numbers(plan, self.schedule, shift)
        for i in range(len(grid)):
            moved = grid.copy()
            moved[i] += DIFFERENCE_STEP
            out[:, :, i] = (_numbers(self.rebuilt(moved), self.schedule, shift) - here) / DIFFERENCE_STEP
        # A shift moves its own row's time alone, so all are moved at once; to both sides, because at 0 it is the row's
        # own time, which the way through lambda and back misses by rounding.
        above, below = (_numbers(plan, self.schedule, shift + s)[:, -1] for s in (DIFFERENCE_STEP, -DIFFERENCE_STEP))
        rows = np.arange(self.plan.nfe)
        out[rows, -1, len(grid) + rows] = (above - below) / (2 * DIFFERENCE_STEP)
        # The table is linear in what is added to the weights.
        for i, (row, place, scale) in enumerate(self._weights):
            out[row, place, len(grid) + self.plan.nfe + i] = scale
        return out

    def rebuilt(self, grid: np.ndarray) -> Plan:
        """The solver on the grid whose intervals in log-SNR are exp(grid) times the first ones."""
        log_snr = self.points.log_snr.copy()
        steps = np.diff(log_snr)
        for value, i in zip(grid, self._free, strict=True):
            # From alpha = 0 the first interval is infinite: there its end moves instead.
            before = log_snr[i - 1]
            log_snr[i] = before + steps[i - 1] * np.exp(value) if np.isfinite(before) else log_snr[i] + value
        moved = self.schedule.at_log_snr(log_snr[self._free])
        arrays = [np.array(v, dtype=np.float64) for v in self.points]
        for array, values in zip(arrays, moved, strict=True):
            array[self._free] = values
        return self._build(Points(*arrays))

    def reaches(self, p: np.ndarray) -> bool:
        """Whether the solver's rows move the same registers on this grid.

        Midpoint rules end in an Euler step on some, and a corrector has nothing to do after a step of first order.
        """
        return _moves(self.rebuilt(self._split(p)[0])) == _moves(self.plan)

    def plan_of(self, p: np.ndarray) -> Plan:
        """The plan with these numbers."""
        table = self.table(p)
        rebuilt = self.rebuilt(self._split(p)[0])
        rows = tuple(_row(row, numbers) for row, numbers in zip(rebuilt.rows, table, strict=True))
        return Plan(rows, rebuilt.end, rebuilt.prediction, f"fitted {rebuilt.solver}", "fitted")

    def _split(self, p: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        first, second = len(self._free), len(self._free) + self.plan.nfe
        return p[:first], p[first:second], p[second:]


def _moves(plan: Plan) -> list[tuple[str, tuple[int, ...]]]:
    return [(row.base_move, row.drop_history) for row in plan.rows]


def _weights(plan: Plan) -> list[tuple[int, int, float]]:
    """(row, place in the flat row, scale) of every weight that may move: all outputs known by then, and x and base."""
    found = []
    kept = 0
    for i, (row, unknown) in enumerate(zip(plan.rows, unknown_outputs(plan.rows), strict=True)):
        kept += 1
        if i:  # hosts may hold c_in x in the place of x, but what they begin with is not ours to scale
            found.append((i, OFFSET["c_in"], row.c_in))
        for line, names in ((row.x, ("a_base", "a_x", "A")), (row.base, ("b_base", "b_x", "B"))):
            if line is None or (row.base_move != "write" and names[2] == "B"):
                continue
            scale = sum(map(abs, line.history)) or 1.0
            for name, weight in zip(names[:2], (line.base, line.x), strict=True):
                if weight != 0:
                    found.append((i, OFFSET[name], abs(weight)))
            found += [(i, OFFSET[names[2]] + k, scale) for k in range(unknown, min(kept, MAX_HISTORY))]
        kept -= len(row.drop_history)
    return found


def _numbers(plan: Plan, schedule: Schedule, shift: np.ndarray) -> np.ndarray:
    points = Points(*(np.array([getattr(row, name) for row in plan.rows]) for name in ("t", "alpha", "sigma")))
    # All that is lower than the cut is pure noise to the model, wherever the schedule begins.
    log_snr = np.maximum(points.log_snr, LOG_SNR_CUT)
    steps = np.maximum(np.diff(log_snr), MIN_INTERVAL)
    model_times = schedule.t_of_log_snr(log_snr + shift * np.append(steps, steps[-1:] if len(steps) else MIN_INTERVAL))
    table = plan.table.copy()
    table["clamp"] = 0  # is infinite, has no derivative, and is not of a plan
    numbers = table.view(np.float64).reshape(plan.nfe, WIDTH)
    return np.column_stack([numbers, np.where(shift == 0, points.t, model_times)])


def _row(row: Row, numbers: np.ndarray) -> Row:
    """The row with other numbers."""
    p_x, p_m, c_in = (float(numbers[OFFSET[name]]) for name in ("p_x", "p_m", "c_in"))
    base = _line(numbers, "b") if row.base_move == "write" else row.base
    x = _line(numbers, "a")
    return replace(row, t=float(numbers[-1]), p_x=p_x, p_m=p_m, x=x, base=base, c_in=c_in)


def _line(numbers: np.ndarray, name: str) -> LinearUpdate:
    first = OFFSET[name.upper()]
    history = [float(v) for v in numbers[first : first + MAX_HISTORY]]
    while history and history[-1] == 0:
        history.pop()
    return LinearUpdate(float(numbers[OFFSET[f"{name}_base"]]), float(numbers[OFFSET[f"{name}_x"]]), tuple(history))
