"""Time grids: where on the schedule the steps begin and end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from .align_your_steps import align_your_steps
from .menu_grids import MENU_GRIDS, menu_grid
from .schedule import Points, Schedule

# Where alpha is 0 at the start, grids that are uniform in a function of lambda are laid from here on instead (the
# clipping of DPM-Solver's reference code), and the first point is put back to the true start.
LOG_SNR_CUT = -5.1

# How far explicit levels may pass the schedule's ends, relatively: they often went through float32.
ROUNDING = 1e-5

GRIDS = (
    *("logsnr", "time", "quadratic", "power", "logistic", "karras", "exponential"),
    *("linspace", "leading", "trailing", "ays"),
)
FINAL_SIGMAS = ("zero", "sigma_min")


def make_grid(
    schedule: Schedule,
    steps: int | None,
    grid: str | ArrayLike = "time",
    *,
    final_sigma: str = "zero",
    sigmas: ArrayLike | None = None,
    start: float = 1.0,
    rho: float | None = None,
    center: float = 1.0,
    steps_offset: int = 0,
    log_snr_min: float = -np.inf,
    prediction: str | None = None,
) -> Points:
    """The steps + 1 points of a run, from most noise to least, all within the schedule except a clean end.

    grid: a name, with s = sigma / alpha, or t on flow schedules; or an array of the times at which the model is called.
        "time": uniform in t, shifted on flow schedules, and stretched to their terminal.
        "quadratic": uniform in the square root of the time from clean data, so denser where there is little noise.
        "power": uniform in (sigma / (alpha + sigma))^(1/rho), which is the time of a flow, from its most to 0, on every
        schedule; unshifted on flow schedules, and shifted after.
        "logistic": the same of 1 / (1 + e^(lambda/rho)), which is the flow's time at rho = 1: denser at both ends.
        "logsnr": uniform in lambda = log(alpha / sigma).
        "karras": uniform in s^(1/rho) (Karras et al. 2022, eq. 5).
        "exponential": uniform in log s.
        "linspace", "leading", "trailing": whole training indices (Lin et al. 2024, table 2).
        "ays", "ays:sd15", "ays:sdxl", "ays:svd": the tables of Align Your Steps (`fastdiff.plans.align_your_steps`),
        on schedules that reach their sigmas.
        "simple", "normal", "sgm_uniform", "ddim_uniform", "beta", "beta57", "linear_quadratic", "kl_optimal",
        "laplace", "polyexponential": ComfyUI's, see `fastdiff.plans.menu_grids`. Of these, "simple", "ddim_uniform",
        "beta" and "laplace" have as many steps as there, which may be a few more or fewer.
        "time" and "quadratic" evaluate last at t_min where even spacing would go below it. Clean data are at index -1
        of a discrete schedule, so no evaluation is spent where there is next to no noise.
    sigmas: instead of a grid, all points as s, the last one included.
    final_sigma: "zero" ends on clean data, "sigma_min" at the least noise of the grid.
    start: keep the last int(start * steps) steps only (image to image).
    rho: of "karras" (7 if None), "power" and "logistic" (1.5) and "polyexponential" (1).
    center: of "power" and "logistic": the levels are those of s / center.
    steps_offset: added to the indices of "leading".
    log_snr_min: grids that are uniform in a function of lambda begin here at the earliest.
    prediction: what the model predicts; arrays may go down to its `Schedule.least_time` instead of t_min.
    Raises ValueError for an unknown name, for "gits", which belongs to a model, for steps < 1, noise that does not fall
    strictly, and points outside the schedule.
    """
    _check(steps, grid, sigmas, final_sigma, start, rho, steps_offset)
    if sigmas is not None:
        points = _explicit_sigmas(schedule, _sequence("sigmas", sigmas))
    elif isinstance(grid, str):
        assert steps is not None  # a named grid has a number of steps, as checked above
        points = _named(schedule, int(steps), grid, final_sigma, rho, center, steps_offset, log_snr_min)
        steps = None if grid in MENU_GRIDS else steps
    else:
        points = schedule.at(_sequence("grid", grid))
        points = _clean_end(points, schedule) if final_sigma == "zero" and points.sigma[-1] > 0 else points
    _check_points(points, steps)
    if sigmas is not None or not isinstance(grid, str) or grid in MENU_GRIDS:
        _check_range(points, schedule, schedule.least_time(prediction), "grid" if sigmas is None else "sigmas")
    count = len(points.t) - 1
    kept = min(int(start * count + 1e-9), count)
    if kept < 1:
        raise ValueError(f"start: expected at least one step to remain of {count}, got {start}")
    return points.at(slice(count - kept, None))


def _named(
    schedule: Schedule,
    steps: int,
    grid: str,
    final_sigma: str,
    rho: float | None,
    center: float,
    steps_offset: int,
    log_snr_min: float,
) -> Points:
    """N noisy points and the clean one, or N + 1 noisy points."""
    to_zero = final_sigma == "zero"
    count = steps if to_zero else steps + 1
    if grid in ("time", "quadratic"):
        points = schedule.at(_times(schedule, count, grid, to_zero))
    elif grid in _FLOW_TIMES:
        points = _in_flow_time(schedule, count, grid, rho or 1.5, center, to_zero)
    elif grid in _INDEX_SPACINGS:
        points = schedule.at(_indices(schedule, count, grid, steps_offset))
    elif grid.startswith("ays"):
        points = align_your_steps(schedule, count, grid.partition(":")[2])
    elif grid in MENU_GRIDS:
        high = float(schedule.coordinate(_begin(schedule, log_snr_min)))
        points = menu_grid(schedule, count, grid, rho or 1.0, high)
    else:
        points = _uniform_in_noise(schedule, count, grid, rho or 7.0, log_snr_min)
    return _clean_end(points, schedule) if to_zero else points


def _times(schedule: Schedule, count: int, grid: str, to_zero: bool) -> np.ndarray:
    """Uniform in t, or in the square root of the time from clean data.

    From t_max to one step short of clean data; to t_min where that would be below it, and always on EDM schedules,
    whose models do not know clean data.
    """
    clean, sign = schedule.t_clean, schedule.direction
    in_time = grid == "time"

    def to(t: float) -> float:
        return schedule.unshift_time(t) if in_time else (sign * (t - clean)) ** 0.5

    first, least = to(schedule.t_max), to(schedule.t_min)
    u = np.linspace(first, to(clean), count + 1)[:-1]
    if not to_zero or schedule.kind == "ve" or (sign * (u[-1] - least) < 0 if in_time else u[-1] < least):
        u = np.linspace(first, least, count)
    times = schedule.shift_time(u) if in_time else clean + sign * u**2
    times = sign * np.maximum(sign * times, sign * schedule.t_min)  # which the root and the shift round
    if u[-1] == least:
        times[-1] = schedule.t_min
    times[0] = schedule.t_max
    return schedule.stretch_times(times) if in_time and to_zero else times


def _root(level: Any, rho: float) -> Any:
    return level ** (1 / rho)


def _tempered(level: Any, rho: float) -> Any:
    """The logistic function of logit(level) / rho; of 1 / rho its inverse."""
    root = level ** (1 / rho)
    return root / (root + (1 - level) ** (1 / rho))


def times_odds(level: Any, factor: float) -> Any:
    """The level, sigma / (alpha + sigma), whose sigma / alpha is so many times as much."""
    return factor * level / (1 + (factor - 1) * level)


_FLOW_TIMES = {"power": _root, "logistic": _tempered}


def _in_flow_time(schedule: Schedule, count: int, grid: str, rho: float, center: float, to_zero: bool) -> Points:
    """Uniform in a function of the flow's time, unshifted; to t_min where a step short of clean data would be below."""
    spaced = _FLOW_TIMES[grid]

    def to(t: float) -> float:
        level = float(schedule.coordinate(schedule.at(t), "flow"))
        return float(spaced(times_odds(schedule.unshift_time(level), 1 / center), rho))

    first, least = to(schedule.t_max), to(schedule.t_min)
    u = np.linspace(first, 0.0, count + 1)[:-1]
    if not to_zero or u[-1] < least:
        u = np.linspace(first, least, count)
    levels = schedule.shift_time(times_odds(spaced(u, 1 / rho), center))
    if to_zero:
        levels = schedule.stretch_times(levels)
    last = schedule.at(schedule.t_min) if u[-1] == least else None
    return _exact_ends(schedule.at_coordinate(levels, "flow"), schedule.at(schedule.t_max), last)


def _exact_ends(points: Points, first: Points, last: Points | None) -> Points:
    """The points with these ends, exactly as the schedule has them, not through roots, log and exp."""
    for place, end in ((-1, last), (0, first)):
        if end is not None:
            for values, value in zip(points, end, strict=True):
                values[place] = value
    return points


def _begin(schedule: Schedule, log_snr_min: float) -> Points:
    """Where grids that are laid between two finite levels begin."""
    first = schedule.at(schedule.t_max)
    if first.log_snr < log_snr_min:
        first = schedule.at_log_snr(log_snr_min)
    finite = np.isfinite(schedule.coordinate(first))
    return first if finite else schedule.at_log_snr(LOG_SNR_CUT)


def _uniform_in_noise(schedule: Schedule, count: int, grid: str, rho: float, log_snr_min: float) -> Points:
    first, last = schedule.at(schedule.t_max), schedule.at(schedule.t_min)
    if first.log_snr < log_snr_min:
        first = schedule.at_log_snr(log_snr_min)

    def to(points: Points) -> np.ndarray:
        if grid == "logsnr":
            return points.log_snr
        s = schedule.coordinate(points)
        return np.log(s) if grid == "exponential" else s ** (1 / rho)

    def back(u: np.ndarray) -> Points:
        if grid == "logsnr":
            return schedule.at_log_snr(u)
        return schedule.at_coordinate(np.exp(u) if grid == "exponential" else u**rho)

    begin = first if np.isfinite(to(first)) else schedule.at_log_snr(LOG_SNR_CUT)
    inner = back(np.linspace(to(begin), to(last), count))
    return _exact_ends(inner, first, last)


_INDEX_SPACINGS: dict[str, Callable[[int, int, int], np.ndarray]] = {
    "linspace": lambda total, count, offset: np.linspace(total - 1, 0, count).round(),
    "leading": lambda total, count, offset: (np.arange(count) * (total // count))[::-1] + offset,
    "trailing": lambda total, count, offset: np.round(np.arange(total, 0, -total / count))[:count] - 1,
}


def _indices(schedule: Schedule, count: int, grid: str, offset: int) -> np.ndarray:
    if schedule.num_train_timesteps is None:
        raise ValueError(f"grid: {grid!r} needs a discrete schedule; use 'time' on a continuous one")
    times = _INDEX_SPACINGS[grid](schedule.num_train_timesteps, count, offset)
    return np.minimum(times, schedule.num_train_timesteps - 1).astype(np.float64)


def _explicit_sigmas(schedule: Schedule, s: np.ndarray) -> Points:
    if s.size > 1 and s[-1] == 0:
        return _clean_end(_explicit_sigmas(schedule, s[:-1]), schedule)
    with np.errstate(invalid="ignore"):
        return schedule.at_coordinate(s)


def _clean_end(points: Points, schedule: Schedule) -> Points:
    """The points followed by clean data, alpha = 1 and sigma = 0."""
    clean = (schedule.t_clean, 1.0, 0.0)
    return Points(*(np.append(v, end) for v, end in zip(points, clean, strict=True)))


def _check(
    steps: int | None,
    grid: str | ArrayLike,
    sigmas: ArrayLike | None,
    final_sigma: str,
    start: float,
    rho: float | None,
    steps_offset: int,
) -> None:
    if sigmas is None and isinstance(grid, str):
        if grid == "gits":
            raise ValueError("grid: 'gits' is fitted to a model; fastdiff.fit finds it for yours")
        if grid not in (*GRIDS, *MENU_GRIDS) and not grid.startswith("ays:"):
            known = ", ".join((*GRIDS, *MENU_GRIDS))
            raise ValueError(f"grid: expected one of {known}, or an array of times, got {grid!r}")
        if not isinstance(steps, (int, np.integer)) or steps < 1:
            raise ValueError(f"steps: expected a whole number >= 1, got {steps!r}")
    if final_sigma not in FINAL_SIGMAS:
        raise ValueError(f"final_sigma: expected one of {', '.join(FINAL_SIGMAS)}, got {final_sigma!r}")
    if not 0 < start <= 1:
        raise ValueError(f"start: expected a number in (0, 1], got {start}")
    if rho is not None and not rho > 0:
        raise ValueError(f"rho: expected a number > 0, got {rho}")
    if not steps_offset >= 0:
        raise ValueError(f"steps_offset: expected a whole number >= 0, got {steps_offset}")


def _sequence(name: str, values: ArrayLike) -> np.ndarray:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or array.size == 0:
        raise ValueError(f"{name}: expected a sequence of numbers, got an array of shape {array.shape}")
    return array


def _check_points(points: Points, steps: int | None) -> None:
    log_snr = points.log_snr
    if log_snr.ndim != 1 or len(log_snr) < 2:
        raise ValueError("grid: expected at least two points")
    with np.errstate(invalid="ignore"):
        falls = np.all(np.diff(log_snr) > 0)
    if np.isnan(log_snr).any() or not falls:
        raise ValueError(
            "grid: expected noise that falls strictly from point to point; these times or sigmas repeat, rise or are"
            f" not numbers: t = {np.array2string(points.t, precision=4, threshold=12)}"
        )
    if steps is not None and len(log_snr) != steps + 1:
        raise ValueError(f"steps: the grid has {len(log_snr) - 1} steps, got steps={steps}")


def _check_range(points: Points, schedule: Schedule, least: float, name: str) -> None:
    """Raises ValueError where a model would be called with a sigma that its schedule does not have."""
    asked = points.at(slice(-1)) if points.sigma[-1] == 0 else points
    ends = schedule.at(np.array([least, schedule.t_max]))
    first, last = sorted((least, schedule.t_max))
    slack = ROUNDING * (last - first)
    inside = (asked.t >= first - slack) & (asked.t <= last + slack)
    inside &= (asked.log_snr <= ends.log_snr[0] + ROUNDING) & (asked.log_snr >= ends.log_snr[1] - ROUNDING)
    if not inside.all():
        i = int(np.flatnonzero(~inside)[0])
        raise ValueError(
            f"{name}: expected levels within {schedule!r}, but point {i} has t = {asked.t[i]:.6g}, sigma/alpha ="
            f" {np.exp(-asked.log_snr[i]):.6g}; leave it out, or make the schedule with the range that the model knows"
        )
