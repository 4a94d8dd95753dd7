"""Runge-Kutta in the noise level: Euler, Heun, DPM2 and midpoint, with churn, and DPM2's ancestral form.

Karras et al. 2022 (arXiv 2206.00364). With s = sigma / alpha and z = x / alpha, or s = sigma / (alpha + sigma) and
z = x / (alpha + sigma), the ODE is dz/ds = (z - D) / s (eq. 4 with eq. 3 for alpha = 1). Steps from s = inf are
Euler's. Those from and to s = 0, where a rule would ask the model, are Euler's too, but for velocities of flow
schedules, which are finite there: they are of second order by the midpoint rule, which asks halfway, unless they are
too short to matter.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

from ..row import BASE_UNCHANGED, LinearUpdate, Row
from ..schedule import Points, Schedule
from .adams import form_of, scale_of
from .ancestral import ddim_row, step_down
from .churn import MAX_CHURN, Churn, Step, churned


class Rule(NamedTuple):
    """A two-stage rule from s to t: z_t = z_s + (t - s) ((1 - share) slope_s + share slope_middle)."""

    middle: float
    share: float


Rules = Callable[[float, float], Rule | None]  # the rule from level s to level t; None where it is Euler's step
CLEAN_ENDS = ("midpoint", "heun", "euler")


def euler(
    schedule: Schedule,
    points: Points,
    prediction: str,
    *,
    s_churn: float = 0.0,
    s_tmin: float = 0.0,
    s_tmax: float = math.inf,
    s_noise: float = 1.0,
    max_churn: float = MAX_CHURN,
    step_scale: float = 1.0,
) -> list[Row]:
    """Euler's step, the same in every noise level. s_churn, s_tmin, s_tmax, s_noise, max_churn: see `Churn`.

    step_scale: z_s + step_scale (z_t - z_s) instead of z_t, the last step too, which then goes past D (AlphaFold 3's
    eta, Abramson et al. 2024, algorithm 18; with max_churn=0.8 and s_noise=1.003 there). z = x / alpha, or
    x / (alpha + sigma) on flow schedules.
    """

    def step(i: int, s: Points, t: Points) -> list[Row]:
        # Euler's step in sigma / alpha is DDIM's, and so it is in every other coordinate.
        row = ddim_row(s, t, prediction, i + 1)
        return [row if step_scale == 1 else _longer(row, schedule, s, t, step_scale)]

    return churned(schedule, points, step, Churn(s_churn, s_tmin, s_tmax, s_noise, max_churn))


def _longer(row: Row, schedule: Schedule, s: Points, t: Points, factor: float) -> Row:
    form = form_of(schedule, None)
    k_s, k_t = scale_of(s, form), scale_of(t, form)
    if k_s == 0:
        raise ValueError("step_scale: expected data in x at the start of every step, got alpha = 0")
    stay = (1 - factor) * k_t / k_s
    line = LinearUpdate(x=stay + factor * row.x.x, history=tuple(factor * a for a in row.x.history))
    return replace(row, x=line)


def heun(
    schedule: Schedule,
    points: Points,
    prediction: str,
    *,
    coordinate: str | None = None,
    clean_end: str = "midpoint",
    s_churn: float = 0.0,
    s_tmin: float = 0.0,
    s_tmax: float = math.inf,
    s_noise: float = 1.0,
    max_churn: float = MAX_CHURN,
) -> list[Row]:
    """Heun's second-order step (algorithms 1 and 2): two evaluations a step.

    coordinate: "sigma" or "flow" (see `Schedule.coordinate`); where not given, "sigma" on EDM schedules as in the paper
    and "flow" on others: on the cosine schedule sigma / alpha starts at 20,000, and a trapezium that long has an error
    of its own length. k-diffusion and diffusers always take "sigma".
    clean_end: how a step from or to sigma = 0 of velocities on flow schedules is taken: "midpoint"; "heun", which
    asks for the velocity at sigma = 0 as ODE packages do, and is less exact where the data are sharp; or "euler" as in
    diffusers. Others are always Euler's. s_churn, s_tmin, s_tmax, s_noise, max_churn: see `Churn`.
    """
    if clean_end not in CLEAN_ENDS:
        raise ValueError(f"clean_end: expected one of {', '.join(CLEAN_ENDS)}, got {clean_end!r}")
    step = heun_step(schedule, prediction, coordinate, clean_end)
    return churned(schedule, points, step, Churn(s_churn, s_tmin, s_tmax, s_noise, max_churn))


def heun_step(schedule: Schedule, prediction: str, coordinate: str | None, clean_end: str = "midpoint") -> Step:
    """One step of `heun`."""
    if clean_end == "heun" and finite_at_zero(schedule, prediction):
        return two_stage(schedule, prediction, _trapezium, coordinate)
    at_zero = None if clean_end == "euler" else _midpoint
    return two_stage(schedule, prediction, _away_from_zero(schedule, prediction, _trapezium, at_zero), coordinate)


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
    max_churn: float = MAX_CHURN,
) -> list[Row]:
    """The midpoint rule with the middle at sqrt(s t) (k-diffusion's sample_dpm_2): two evaluations a step.

    The step to sigma = 0 is Euler's, and `midpoint`'s for velocities on flow schedules.
    """
    step = _geometric_step(schedule, prediction, coordinate)
    return churned(schedule, points, step, Churn(s_churn, s_tmin, s_tmax, s_noise, max_churn))


def _geometric_step(schedule: Schedule, prediction: str, coordinate: str | None) -> Step:
    rules = _away_from_zero(schedule, prediction, lambda s, t: Rule(math.sqrt(s * t), 1.0), _midpoint)
    return two_stage(schedule, prediction, rules, coordinate)


def midpoint(schedule: Schedule, points: Points, prediction: str, *, coordinate: str | None = None) -> list[Row]:
    """The midpoint rule with the middle at (s + t) / 2, to s = 0 too where the model knows it."""
    step = two_stage(schedule, prediction, _midpoint, coordinate)
    return churned(schedule, points, step, Churn())


def _midpoint(s: float, t: float) -> Rule:
    # Euler to halfway, whose slope serves for the whole step.
    return Rule((s + t) / 2, 1.0)


def _trapezium(s: float, t: float) -> Rule:
    # Euler all the way, then the mean of both ends' slopes.
    return Rule(t, 0.5)


def _away_from_zero(schedule: Schedule, prediction: str, rules: Rules, at_zero: Rules | None) -> Rules:
    """The rules, and at s = 0 others where the model is finite there, or none."""
    other = at_zero if at_zero is not None and finite_at_zero(schedule, prediction) else lambda s, t: None
    return lambda s, t: rules(s, t) if min(s, t) > 0 else other(s, t)


def dpm_2_ancestral(
    schedule: Schedule, points: Points, prediction: str, *, eta: float = 1.0, s_noise: float = 1.0
) -> list[Row]:
    """dpm_2 down to the noise level that leaves room for fresh noise (k-diffusion's sample_dpm_2_ancestral)."""
    rows: list[Row] = []
    last_step = _geometric_step(schedule, prediction, None)
    least = float(schedule.coordinate(schedule.at(schedule.t_min), "sigma"))
    for i in range(len(points.t) - 1):
        s, t = points.at(i), points.at(i + 1)
        # Levels are s = sigma / alpha, in which k-diffusion's ancestral step is defined.
        level_s, level_t = (_over(float(p.sigma), float(p.alpha)) for p in (s, t))
        if level_t == 0 and finite_at_zero(schedule, prediction):
            rows += last_step(i, s, t)
            continue
        down_share, up_share = step_down(s, t, eta)
        down = level_t * down_share
        if down == 0 or math.isinf(level_s):
            rows.append(ddim_row(s, t, prediction, i + 1, eta, s_noise))
            continue
        # Halfway in log(s), as dpm_2's inner point in k-diffusion.
        middle = max(math.sqrt(level_s * down), min(least, level_t))  # with eta > 1 it would lie below t
        point = schedule.at_log_snr(-math.log(middle))
        k_s, k_m, k_t = float(s.alpha), float(point.alpha), float(t.alpha)
        # Euler to the middle, z_m = (m / s) z_s + (1 - m / s) D_s, then z_t = z_s + (down - s) (z_m - D_m) / m. In the
        # second row z_m is x and z_s is base.
        first = LinearUpdate(base=k_m / k_s * middle / level_s, history=(k_m * (1 - middle / level_s),))
        slope = (down - level_s) / middle
        noise = ((i + 1, s_noise * up_share * float(t.sigma)),) if up_share else ()
        second = LinearUpdate(base=k_t / k_s, x=k_t / k_m * slope, history=(-k_t * slope,), noise=noise)
        rows += [Row.at(s, "data", prediction, first, BASE_UNCHANGED), Row.at(point, "data", prediction, second)]
    return rows


def _over(a: float, b: float) -> float:
    return a / b if b else math.inf


def finite_at_zero(schedule: Schedule, prediction: str) -> bool:
    """Whether the model can be asked at sigma = 0."""
    return float(schedule.sigma(schedule.least_time(prediction))) == 0


def two_stage(schedule: Schedule, prediction: str, rules: Rules, coordinate: str | None) -> Step:
    """A step of a two-stage rule.

    Where there is none, a level is infinite, or a step from or to s = 0 has its middle below the schedule's least
    noise, the step is Euler's.
    """
    coordinate = coordinate or ("sigma" if schedule.kind == "ve" else "flow")
    most_log_snr = float(schedule.log_snr(schedule.t_min))

    def step(i: int, s: Points, t: Points) -> list[Row]:
        level_s, level_t = (float(schedule.coordinate(p, coordinate)) for p in (s, t))
        # An infinite level, at alpha = 0, has no middle.
        rule = None if math.isinf(max(level_s, level_t)) else rules(level_s, level_t)
        if rule is None:
            return [ddim_row(s, t, prediction, i + 1)]
        # The end itself where that is the inner point: through the level and back it would differ by rounding.
        point = t if rule.middle == level_t else schedule.at_coordinate(rule.middle, coordinate)
        if min(level_s, level_t) == 0 < rule.middle and float(point.log_snr) > most_log_snr:
            return [ddim_row(s, t, prediction, i + 1)]
        slope_form = form_of(schedule, coordinate)
        scales = scale_of(s, slope_form), scale_of(point, slope_form), scale_of(t, slope_form)
        # At s = 0 the slope (z - D) / s is 0 / 0 in data form; the model's velocity is the slope, and finite.
        zero = min(level_s, rule.middle) == 0
        lines = (slope_lines if zero else data_lines)(rule, level_s, level_t, scales)
        form = slope_form if zero else "data"
        return [Row.at(s, form, prediction, lines[0], BASE_UNCHANGED), Row.at(point, form, prediction, lines[1])]

    return step


def slope_lines(
    rule: Rule, s: float, t: float, scales: tuple[float, float, float]
) -> tuple[LinearUpdate, LinearUpdate]:
    """The rule's two updates from outputs that are the slopes dz/ds. scales: k of z = x / k at s, middle and t."""
    k_s, k_m, k_t = scales
    # z_m = z_s + (m - s) d_s; z_t = z_s + (t - s) (share d_m + (1 - share) d_s), d_m being the newer output.
    first = LinearUpdate(base=k_m / k_s, history=(k_m * (rule.middle - s),))
    later, now = k_t * (t - s) * rule.share, k_t * (t - s) * (1 - rule.share)
    return first, LinearUpdate(base=k_t / k_s, history=(later, now))


def data_lines(rule: Rule, s: float, t: float, scales: tuple[float, float, float]) -> tuple[LinearUpdate, LinearUpdate]:
    """The same from outputs D, of which the slopes are (z - D) / s."""
    k_s, k_m, k_t = scales
    # The slopes put in: d_s = (z_s - D_s) / s of the base, d_m = (z_m - D_m) / m of x, the inner point.
    first = LinearUpdate(base=k_m / k_s * (rule.middle / s), history=(k_m * (1 - rule.middle / s),))
    later, now = (t - s) * rule.share / rule.middle, (t - s) * (1 - rule.share) / s
    return first, LinearUpdate(base=k_t / k_s * (1 + now), x=k_t / k_m * later, history=(-k_t * later, -k_t * now))
