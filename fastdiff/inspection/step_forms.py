"""The steps of a plan as sums of the states and of the data predictions x0 that they read.

A row's arithmetic is linear, whatever its form: with D_k = x0 as row k predicted it, the state after a step is

    x' = sum_j a_j x_j + sum_j b_j base_j + sum_k c_k D_k + noise

where x_j is the state that row j evaluates and base_j the base before it. Stages inside a step are put in.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

from ..plans.plan import Plan
from ..plans.prediction import convert
from ..plans.row import LinearUpdate, Row
from ..sampling.registers import Registers, Step, advance, moves_of

Symbol = tuple[str, int]  # ("x", j), ("base", j), ("x0", k); ("unknown", k) where x0 leaves a row's D undetermined
Form = dict[Symbol, float]
Level = tuple[float, float]  # (alpha, sigma)


class StepForm(NamedTuple):
    """A step: the rows first to last, from the level s to t. start, end: its states; end without its noise."""

    first: int
    last: int
    s: Level
    t: Level
    start: Form
    end: Form
    noisy: bool


def added(terms: Iterable[tuple[float, Form]]) -> Form:
    """The weighted sum of forms."""
    total: Form = {}
    for weight, form in terms:
        for symbol, value in form.items() if weight else ():
            total[symbol] = total.get(symbol, 0.0) + weight * value
    return total


def step_forms(plan: Plan) -> list[StepForm]:
    """The steps of a plan, each with the state that it starts from.

    That is x, or the base that the row has just written where that is at x's level: the state as a corrector left it.
    """
    levels: dict[Symbol, Level] = {("x", 0): plan.start, ("base", 0): plan.start}
    registers: Registers[Form] = Registers({("x", 0): 1.0}, {("x", 0): 1.0})
    found, first = [], 0
    for i, (row, moves) in enumerate(zip(plan.rows, moves_of(plan.rows), strict=True)):
        levels["x", i], levels["x0", i] = (row.alpha, row.sigma), (1.0, 0.0)
        registers = advance(registers, moves, _step(row, i, plan.prediction))
        if not row.accepts:
            continue
        x: Form = {("x", i + 1): 1.0}
        s, start = (plan.rows[first].alpha, plan.rows[first].sigma), Form({("x", first): 1.0})
        base = x if moves.base == "next" else registers.base
        noisy = any(line is not None and line.noise for r in plan.rows[first : i + 1] for line in (r.x, r.base))
        if moves.base == "write":
            alpha, sigma = levels["base", i + 1] = _level(base, levels)
            # Where there is noise, it makes up for the rest of sigma.
            if math.isclose(alpha, s[0], rel_tol=1e-6) and (noisy or math.isclose(sigma, s[1], rel_tol=1e-6)):
                start = base
            base = {("base", i + 1): 1.0}
        found.append(StepForm(first, i, s, plan.point_after(i), start, registers.x, noisy))
        registers, first = Registers(x, base, registers.history), i + 1
    return found


def _step(row: Row, i: int, prediction: str) -> Step[Form]:
    """The row's arithmetic on forms."""

    def step(x: Form, base: Form, earlier: tuple[Form, ...]) -> tuple[Form, Form | None, Form]:
        d = _output(row, i, prediction, x)

        def value(line: LinearUpdate) -> Form:
            return added([(line.base, base), (line.x, x), *zip(line.history, (d, *earlier), strict=False)])

        return value(row.x), None if row.base is None else value(row.base), d

    return step


def _output(row: Row, i: int, prediction: str, x: Form) -> Form:
    """The row's D = p_x x + p_m m in x0 = q_x x + q_m m: (p_x - p_m q_x / q_m) x + (p_m / q_m) x0."""
    if row.p_m == 0:
        return added([(row.p_x, x)])
    try:
        q_x, q_m = convert(prediction, "data", row.alpha, row.sigma)
    except ValueError:
        q_x = q_m = 0.0
    if q_m == 0:
        return {("unknown", i): 1.0}
    return added([(row.p_x - row.p_m * q_x / q_m, x), (row.p_m / q_m, {("x0", i): 1.0})])


def _level(form: Form, levels: dict[Symbol, Level]) -> Level:
    """The (alpha, sigma) of a state."""
    known = [(weight, levels.get(symbol, (math.nan, math.nan))) for symbol, weight in form.items()]
    return sum(w * alpha for w, (alpha, _) in known), sum(w * sigma for w, (_, sigma) in known)
