"""Plans with what a fit changes: numbers that no solver of the catalogue has."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

import fastdiff as fd


def moved(plan: fd.Plan, *, first: bool) -> fd.Plan:
    """Every c_in away from 1 (of the first row where `first`), and every weight and inner time by a few per cent."""
    rng, rows = np.random.default_rng(0), []
    for i, row in enumerate(plan.rows):
        by = 1 + 0.1 * rng.uniform(-1, 1, 4)
        history = tuple(float(by[0] * weight) for weight in row.x.history)
        line = replace(row.x, x=float(by[1] * row.x.x), history=history)
        c_in = float(by[2]) if i or first else 1.0
        rows.append(replace(row, x=line, c_in=c_in, t=row.t * float(by[3]) ** 0.1 if i else row.t))
    return replace(plan, rows=tuple(rows), solver=f"moved {plan.solver}", grid="fitted")
