"""How much of a step the model's data prediction makes: what turns CFG++ into scales of plain guidance."""

from __future__ import annotations

import weakref
from typing import NamedTuple

import numpy as np

from ..plans.plan import Plan
from ..plans.row import LinearUpdate, Row
from ..sampling.registers import Registers, advance, moves_of
from ..sampling.rule import Point

Form = np.ndarray  # (weight of eps, weight of x0)
EPS, X0 = np.eye(2)


class StepFactors(NamedTuple):
    """single: whether each row makes a whole step from one evaluation. of_row: alpha' / W for each row's step, W the
    weight of x0 in it; where `single`, of that evaluation's x0 alone."""

    single: bool
    of_row: np.ndarray


_factors: dict[int, tuple[weakref.ref[Plan], StepFactors]] = {}


def step_factors(plan: Plan) -> StepFactors:
    """The plan's factors, computed once. Raises ValueError for a row without effect."""
    found = _factors.get(id(plan))
    if found is not None and found[0]() is plan:
        return found[1]
    single = all(row.base is None for row in plan.rows)
    of_row = np.array(_of_evaluations(plan) if single else _of_steps(plan))
    factors, name = StepFactors(single, of_row), id(plan)
    _factors[name] = weakref.ref(plan, lambda _: _factors.pop(name, None)), factors
    return factors


def exact_factor(before: tuple[float, float], after: tuple[float, float]) -> float:
    """1 / (1 - exp(-h)) for the exact step between two (alpha, sigma): x' = (sigma' / sigma) x + W x0."""
    return _factor(before, after[0], np.array([after[1], after[0]]))


def _factor(before: tuple[float, float], alpha_next: float, x_next: Form) -> float:
    """alpha' / W where x' = A eps + C x0 and eps = (x - alpha x0) / sigma, so that W = C - A alpha / sigma."""
    alpha, sigma = before
    weight = x_next[1] * sigma - x_next[0] * alpha
    if weight == 0:
        raise ValueError("guidance: a step that does not move the state has nothing for CFG++ to guide")
    return alpha_next * sigma / weight


def _of_evaluations(plan: Plan) -> list[float]:
    """alpha' / (dx' / dD) of each row, D its data prediction."""
    factors = []
    for i, row in enumerate(plan.rows):
        own = row.x.history[0] * row.p_m if row.x.history else 0.0
        if own == 0:
            raise ValueError(f"guidance: row {i} of the plan does not read its own output, which CFG++ cannot guide")
        factors.append(plan.point_after(i)[0] * Point.of(plan, i).to_x0[1] / own)
    return factors


def _of_steps(plan: Plan) -> list[float]:
    """alpha' / W of the step that each row belongs to, for a model that always predicts the same x0.

    States at the beginning of a step are on the exact solution alpha x0 + sigma eps, whatever noise came before.
    """
    start = plan.start[1] * EPS + plan.start[0] * X0
    registers: Registers[Form] = Registers(start, start)
    factors: list[float] = []
    before = plan.start
    for i, (row, move) in enumerate(zip(plan.rows, moves_of(plan.rows), strict=True)):

        def step(x: Form, base: Form, history: tuple[Form, ...], row: Row = row) -> tuple[Form, Form, Form]:
            outputs = (_output(plan.prediction, row, x), *history)
            return _line(row.x, x, base, outputs), row.sigma * EPS + row.alpha * X0, outputs[0]

        registers = advance(registers, move, step)
        if row.accepts:
            alpha, sigma = after = plan.point_after(i)
            factor = _factor(before, alpha, registers.x)
            factors += [factor] * (i + 1 - len(factors))
            x = sigma * EPS + alpha * X0
            registers = registers._replace(x=x, base=x if move.base == "next" else registers.base)
            before = after
    return factors


def _output(prediction: str, row: Row, x: Form) -> Form:
    """D of a row at x."""
    eps = (x - row.alpha * X0) / row.sigma if row.sigma else EPS
    m = {
        "epsilon": eps,
        "sample": X0,
        "v_prediction": row.alpha * eps - row.sigma * X0,
        "flow_prediction": eps - X0,
        "score": -eps / row.sigma if row.sigma else eps,
    }[prediction]
    return row.p_x * x + row.p_m * m


def _line(line: LinearUpdate, x: Form, base: Form, outputs: tuple[Form, ...]) -> Form:
    """The line's value, noise apart."""
    return line.base * base + line.x * x + sum(w * h for w, h in zip(line.history, outputs, strict=False))
