"""Plans in ComfyUI's variables: its models return x0 at x = x0 + sigma eps, or (1 - sigma) x0 + sigma eps for flows.

A plan for x = alpha x0 + sigma eps runs on x / alpha: every weight is multiplied by alpha where it reads x and divided
by the alpha of what it makes. What the plan's model predicts is a linear function of x and x0, so a row that reads it
reads x0 instead. The run costs nothing more than one of ComfyUI's own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..kdiffusion.fitted import plan_sampler
from ..plans.plan import Plan
from ..plans.row import BASE_FROM_X, BASE_UNCHANGED, LinearUpdate, Row
from ..plans.schedule import Points, Schedule
from .levels import is_flow
from .schedule import is_flow_form, level_of, schedule_of

SAME_LEVEL = 1e-5  # relatively; what float32 leaves of a level in ComfyUI's tables
SAME_SCHEDULE = 1e-2  # in log sigma; the tables of two schedules that people use differ by far more
PREDICTIONS = {"vp": ("sample", "epsilon", "v_prediction"), "ve": ("sample", "epsilon")}
PREDICTIONS["flow"] = ("sample", "flow_prediction")


def sampler_of(plan: Plan) -> Callable[..., Tensor]:
    """The plan as a sampler: fn(model, x, sigmas, extra_args, callback, disable). sigmas: `sigmas_of(plan)`.

    Raises ValueError for a plan that draws noise or begins where there is no signal; in a run, also for one of another
    kind of model.
    """
    plan.refuse_reuse("and ComfyUI's models hand over the guided output alone")
    levels = sigmas_of(plan)
    if plan.stochastic or not torch.isfinite(levels).all():
        what = "draws noise" if plan.stochastic else "begins at zero signal-to-noise ratio, which no sigma describes"
        raise ValueError(f"plan: this one {what}; ComfyUI can run deterministic plans from a finite sigma")

    def sample(model: Any, x: Tensor, sigmas: Tensor, *args: object, **kwargs: object) -> Tensor:
        sampling = model.inner_model.inner_model.model_sampling
        return plan_sampler(in_host(plan, sampling))(model, x, sigmas, *args, **kwargs)

    return sample


def sigmas_of(plan: Plan) -> Tensor:
    """[steps + 1] ComfyUI's SIGMAS of the plan: the levels where its steps begin, and that of the result; float32."""
    begins = [row for before, row in zip((None, *plan.rows), plan.rows, strict=False) if not before or before.accepts]
    rows = [(row.t, row.alpha, row.sigma) for row in begins] + [(float("nan"), *plan.end)]
    return torch.tensor(level_of(Points(*np.array(rows).T)), dtype=torch.float32)


def in_host(plan: Plan, model_sampling: Any) -> Plan:
    """The plan for ComfyUI's denoiser of a model. Raises ValueError where the plan is of another kind of model."""
    points = Points(*np.array([(row.t, row.alpha, row.sigma) for row in plan.rows]).T)
    kind = _kind(points)
    schedule = schedule_of(model_sampling)
    _check(plan, kind, model_sampling, schedule)
    scales = np.append(points.alpha, plan.end[0]) if kind == "vp" else np.ones(plan.nfe + 1)
    told = level_of(schedule.at(points.t)) if kind == "vp" else points.t
    rows, base = [], float(scales[0])
    for i, (row, level) in enumerate(zip(plan.rows, level_of(points), strict=True)):
        if abs(told[i] - level) <= SAME_LEVEL * level:
            told[i] = level
        row = _reads_data(row, plan.prediction, kind, float(level), float(told[i]))
        row, base = _on_scaled(row, float(scales[i]), float(scales[i + 1]), base)
        rows.append(replace(row, alpha=float(1 - level if kind == "flow" else 1), sigma=float(level)))
    end = (plan.end[0] / float(scales[-1]), plan.end[1] / float(scales[-1]))
    return Plan(tuple(rows), end, "sample", plan.solver, plan.grid)


def _kind(points: Points) -> str:
    if is_flow_form(points):
        return "flow"
    return "ve" if (points.alpha == 1).all() else "vp"


def _check(plan: Plan, kind: str, model_sampling: Any, schedule: Schedule) -> None:
    if (kind == "flow") != is_flow(model_sampling) or (kind == "vp" and schedule.kind != "vp"):
        raise ValueError(
            f"plan: it is for models of the kind {kind!r}, and this model is of the kind {schedule.kind!r}"
        )
    if plan.prediction not in PREDICTIONS[kind]:
        known = ", ".join(PREDICTIONS[kind])
        raise ValueError(f"plan: expected one of the predictions {known} for this model, got {plan.prediction}")
    knots = [knot for knot in plan.schedule if knot[1]] if kind == "vp" else []
    for t, alpha, sigma in knots:
        here = schedule.at(t)
        if abs(np.log(sigma / alpha) + here.log_snr) > SAME_SCHEDULE:
            raise ValueError(
                f"plan: it was made for a schedule with sigma / alpha = {sigma / alpha:.6g} at t = {t:g}, and this"
                f" model has {float(here.sigma / here.alpha):.6g}"
            )


def _reads_data(row: Row, prediction: str, kind: str, level: float, told: float) -> Row:
    """The row with ComfyUI's x0 at (x, told) for the model's output; x is still the plan's.

    Fitted times ask the network at another time than the level's. It must see the same input as before, which ComfyUI
    divides by sqrt(1 + told^2), and its output is what ComfyUI made x0 of.
    """
    c = row.c_in * ((1 + told**2) / (1 + level**2)) ** 0.5 if kind == "vp" else row.c_in
    seen = c / row.alpha if kind == "vp" else c  # of the plan's x
    spread = (1 + told**2) ** 0.5
    read_x, read_data = {
        "sample": (0.0, 1.0),
        "epsilon": (seen / told, -1 / told),
        "flow_prediction": (seen / told, -1 / told),
        "v_prediction": (seen / (spread * told), -spread / told),
    }[prediction]
    c = 1.0 if abs(c - 1) < SAME_LEVEL else c
    return replace(row, t=told, c_in=c, p_x=row.p_x + row.p_m * read_x, p_m=row.p_m * read_data)


def _on_scaled(row: Row, here: float, there: float, base: float) -> tuple[Row, float]:
    """The row for x / here, that makes x / there; and what the next base is divided by.

    base: what the row's own base is divided by.
    """

    def scaled(line: LinearUpdate) -> LinearUpdate:
        return LinearUpdate(
            line.base * base / there,
            line.x * here / there,
            tuple(weight / there for weight in line.history),
            tuple((index, weight / there) for index, weight in line.noise),
        )

    moved = {None: there, BASE_UNCHANGED: base, BASE_FROM_X: here}
    own = row.base not in moved
    line = scaled(row.base) if own and row.base is not None else row.base
    changed = replace(row, p_x=row.p_x * here, x=scaled(row.x), base=line)
    return changed, there if own else moved[row.base]
