"""Runge-Kutta in the noise level: Euler, Heun, DPM2 and midpoint, with churn, and DPM2's ancestral form.

Karras et al. 2022 (arXiv 2206.00364). With s = sigma / alpha and z = x / alpha, or s = sigma / (alpha + sigma) and
z = x / (alpha + sigma), the ODE is dz/ds = (z - D) / s (eq. 4 with eq. 3 for alpha = 1). Steps from s = inf are
Euler's, and those to s = 0 where a rule would ask the model there.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from ..plan import KEEP, Line, Row
from ..schedule import Points, Schedule
from .ancestral import ddim_row, step_down
from .churn import Churn, Step, churned

Tableau = tuple[float, list[float], list[float]]
Stages = Callable[[float, float], Tableau | None]


def euler(
    schedule: Schedule,
    points: Points,
    prediction: str,
    *,
    s_churn: float = 0.0,
    s_tmin: float = 0.0,
    s_tmax: float = math.inf,
    s_noise: float = 1.0,
) -> list[Row]:
    """Euler's step, the same in every noise level. s_churn, s_tmin, s_tmax, s_noise: see `Churn`."""

    def step(i: int, s: Points, t: Points) -> list[Row]:
        return [ddim_row(s, t, prediction, i + 1)]

    return churned(schedule, points, step, Churn(s_churn, s_tmin, s_tmax, s_noise))


def heun(
    schedule: Schedule,
    points: Points,
    prediction: str,
    *,
    coordinate: str | None = None,
    s_churn: float = 0.0,
    s_tmin: float = 0.0,
    s_tmax: float = math.inf,
    s_noise: float = 1.0,
) -> list[Row]:
    """Heun's second-order step (algorithms 1 and 2): two evaluations a step.

    coordinate: "sigma" or "flow" (see `Schedule.coordinate`); where not given, "sigma" on EDM schedules as in the paper
    and "flow" on others: on the cosine schedule sigma / alpha starts at 20,000, and a trapezium that long has an error
    of its own length. k-diffusion and diffusers always take "sigma". s_churn, s_tmin, s_tmax, s_noise: see `Churn`.
    """
    step = heun_step(schedule, prediction, coordinate)
    return churned(schedule, points, step, Churn(s_churn, s_tmin, s_tmax, s_noise))


def heun_step(schedule: Schedule, prediction: str, coordinate: str | None) -> Step:
    """One step of `heun`."""

    def stages(s: float, t: float) -> Tableau | None:
        half = (t - s) / 2
        return (t, [t / s, 1 - t / s], [1 + half / s, half / t, -half / t, -half / s]) if t else None

    return two_stage(schedule, prediction, stages, coordinate)


def dpm_2(
    schedule: Schedule,
    points: Points,
    prediction: str,
    *,
    coordinate: str | None = None,
    s_churn: float = 0.0,
    s_tmin: float = 0.0,
    s_tmax: float = math.inf,
    s_noise: float = 1.0,
) -> list[Row]:
    """The midpoint rule with the middle at sqrt(s t) (k-diffusion's sample_dpm_2): two evaluations a step."""

    def stages(s: float, t: float) -> Tableau | None:
        return _middle_rule(s, math.sqrt(s * t), t) if t else None

    step = two_stage(schedule, prediction, stages, coordinate)
    return churned(schedule, points, step, Churn(s_churn, s_tmin, s_tmax, s_noise))


def midpoint(schedule: Schedule, points: Points, prediction: str, *, coordinate: str | None = None) -> list[Row]:
    """The midpoint rule with the middle at (s + t) / 2, to s = 0 too where the model knows it."""

    def stages(s: float, t: float) -> Tableau:
        return _middle_rule(s, (s + t) / 2, t)

    step = two_stage(schedule, prediction, stages, coordinate)
    return churned(schedule, points, step, Churn())


def _middle_rule(s: float, middle: float, t: float) -> Tableau:
    slope = (t - s) / middle
    return middle, [middle / s, 1 - middle / s], [1.0, slope, -slope, 0.0]


def dpm_2_ancestral(
    schedule: Schedule, points: Points, prediction: str, *, eta: float = 1.0, s_noise: float = 1.0
) -> list[Row]:
    """dpm_2 down to the noise level that leaves room for fresh noise (k-diffusion's sample_dpm_2_ancestral)."""
    rows: list[Row] = []
    for i in range(len(points.t) - 1):
        s, t = points.at(i), points.at(i + 1)
        level_s, level_t = (_over(float(p.sigma), float(p.alpha)) for p in (s, t))
        down_share, up_share = step_down(s, t, eta)
        down = level_t * down_share
        if down == 0 or math.isinf(level_s):
            rows.append(ddim_row(s, t, prediction, i + 1, eta, s_noise))
            continue
        middle = math.sqrt(level_s * down)
        point = schedule.at_log_snr(-math.log(middle))
        k_s, k_m, k_t = float(s.alpha), float(point.alpha), float(t.alpha)
        first = Line(base=k_m / k_s * middle / level_s, history=(k_m * (1 - middle / level_s),))
        slope = (down - level_s) / middle
        noise = ((i + 1, s_noise * up_share * float(t.sigma)),) if up_share else ()
        second = Line(base=k_t / k_s, x=k_t / k_m * slope, history=(-k_t * slope,), noise=noise)
        rows += [Row.at(s, "data", prediction, first, KEEP), Row.at(point, "data", prediction, second)]
    return rows


def _over(a: float, b: float) -> float:
    return a / b if b else math.inf


def two_stage(schedule: Schedule, prediction: str, stages: Stages, coordinate: str | None) -> Step:
    """A step of a two-stage rule. stages(s, t) gives the middle level, (z, D1) weights and (z, z2, D2, D1) weights.

    Where it gives None, a level is infinite, or a step to s = 0 has its middle below the least noise the model knows,
    the step is Euler's.
    """
    coordinate = coordinate or ("sigma" if schedule.kind == "ve" else "flow")

    def step(i: int, s: Points, t: Points) -> list[Row]:
        level_s, level_t = (float(schedule.coordinate(p, coordinate)) for p in (s, t))
        tableau = None if math.isinf(max(level_s, level_t)) else stages(level_s, level_t)
        if tableau is None:
            return [ddim_row(s, t, prediction, i + 1)]
        level_m, (z1, d1), (z, z2, d_2, d_1) = tableau
        point = t if level_m == level_t else schedule.at_coordinate(level_m, coordinate)
        if float(t.sigma) == 0 and float(point.log_snr) > float(schedule.log_snr(schedule.t_min)):
            return [ddim_row(s, t, prediction, i + 1)]
        k_s, k_m, k_t = (scale(p, coordinate) for p in (s, point, t))
        first = Line(base=k_m / k_s * z1, history=(k_m * d1,))
        second = Line(base=k_t / k_s * z, x=k_t / k_m * z2, history=(k_t * d_2, k_t * d_1))
        return [Row.at(s, "data", prediction, first, KEEP), Row.at(point, "data", prediction, second)]

    return step


def scale(point: Points, coordinate: str) -> float:
    """k of z = x / k."""
    return float(point.alpha + point.sigma if coordinate == "flow" else point.alpha)
