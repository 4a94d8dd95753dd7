"""The grids of ComfyUI's menu, and others that go by a name there, on any schedule.

Some take levels from the table of a model's training levels, which continuous schedules have not: theirs is made as
ComfyUI makes it, 1000 levels uniform in log sigma on EDM schedules, and on others uniform in time from t_min on (in
time before the shift). Some are uniform in the model's own time, which is log sigma on EDM schedules. Others lie
between the least and the largest level whatever the model, where s = sigma / alpha, or t on flow schedules.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from .functions import LEAST
from .incomplete_beta import incomplete_beta
from .schedule import Points, Schedule

EDM_TABLE = 1000  # levels
ALL_BUT_CLEAN = 1e-5  # a least level below this is taken for clean data


def simple(size: int, count: int) -> np.ndarray:
    """Places in a table of `size` rising levels, every (size / count)-th from the last one down."""
    return size - 1 - (np.arange(count) * (size / count)).astype(int)


def ddim_uniform(size: int, count: int) -> np.ndarray:
    """Every (size // count)-th place from the second level up; often one place more than `count`."""
    return np.arange(1, size, max(size // count, 1))[::-1]


def beta(size: int, count: int, a: float = 0.6, b: float = 0.6) -> np.ndarray:
    """The places nearest to the quantiles of a beta distribution, each once (Lee et al. 2024, arXiv 2407.12173)."""
    share = 1 - np.linspace(0, 1, count, endpoint=False)
    # Place k is nearest to the quantile of p where I at k - 1/2 is at most p, and I at k + 1/2 above it.
    halves = (np.arange(size - 1) + 0.5) / (size - 1)
    places = np.searchsorted(incomplete_beta(halves, a, b), share, side="right")
    return places[np.diff(places, prepend=-1) != 0]


def beta57(size: int, count: int) -> np.ndarray:
    """`beta` with a = 0.5 and b = 0.7: more steps where there is little noise."""
    return beta(size, count, 0.5, 0.7)


def kl_optimal(count: int, low: float, high: float) -> np.ndarray:
    """Levels uniform in atan(s), optimal for Gaussian data of unit variance (Sabour et al. 2024, arXiv 2404.14507)."""
    return _with_ends(np.tan(np.linspace(math.atan(high), math.atan(low), count)), low, high)


def polyexponential(count: int, low: float, high: float, rho: float = 1.0) -> np.ndarray:
    """log s is linear in u^rho, u uniform from 1 to 0 (k-diffusion)."""
    u = np.linspace(1, 0, count) ** rho
    return _with_ends(np.exp(u * math.log(high) + (1 - u) * math.log(low)), low, high)


def _with_ends(levels: np.ndarray, low: float, high: float) -> np.ndarray:
    """The levels with the ends as they were given, not through functions and their inverses."""
    levels[-1] = low
    levels[0] = high
    return levels


def laplace(count: int, low: float, high: float, mu: float = 0.0, scale: float = 0.5) -> np.ndarray:
    """Quantiles of a Laplace distribution of log s, clipped to [low, high] (Hang et al. 2024, arXiv 2407.03297)."""
    place = 0.5 - np.linspace(0, 1, count)
    log_s = mu - scale * np.sign(place) * np.log(1 - 2 * np.abs(place) + 1e-5)  # keeps the ends finite
    return np.clip(np.exp(log_s), low, high)


def linear_quadratic(
    count: int, low: float, high: float, threshold_noise: float = 0.025, linear_steps: int | None = None
) -> np.ndarray:
    """Moviegen's levels for flows: 1 - s / high is linear up to threshold_noise, then quadratic, with equal slopes.

    The linear part has linear_steps of the steps, half of them if None; the last step is to clean data.
    """
    if count == 1:
        return np.array([high])
    linear = count // 2 if linear_steps is None else linear_steps
    if not 0 < linear < count:
        raise ValueError(f"linear_steps: expected a whole number from 1 to {count - 1}, got {linear_steps}")
    i, quadratic, slope = np.arange(count), count - linear, threshold_noise / linear
    k = np.maximum(i - linear, 0)
    bend = (1 - threshold_noise - slope * quadratic) / quadratic**2  # it ends at 1 after `count` steps
    return high * (1 - (slope * i + bend * k**2))


PLACES: dict[str, Callable[[int, int], np.ndarray]] = {
    "simple": simple,
    "ddim_uniform": ddim_uniform,
    "beta": beta,
    "beta57": beta57,
}
LEVELS: dict[str, Callable[[int, float, float], np.ndarray]] = {
    "kl_optimal": kl_optimal,
    "polyexponential": polyexponential,
    "laplace": laplace,
    "linear_quadratic": linear_quadratic,
}
MENU_GRIDS = (*PLACES, "normal", "sgm_uniform", *LEVELS)


def menu_grid(schedule: Schedule, count: int, grid: str, rho: float, high: float) -> Points:
    """The noisy points, falling; those of whole indices may be a few more or fewer than `count`.

    rho: of "polyexponential". high: the largest finite level of the schedule, for the grids that are laid between two.
    """
    if grid in PLACES:
        size = _table_size(schedule)
        points = _table(schedule, size, PLACES[grid](size, count))
    elif grid in LEVELS:
        low, first = (float(schedule.coordinate(schedule.at(t))) for t in (schedule.t_min, schedule.t_max))
        between = (low, first if grid == "kl_optimal" else high)
        options = {"rho": rho} if grid == "polyexponential" else {}
        points = _of_levels(schedule, LEVELS[grid](count, *between, **options), *between)
    else:
        points = _in_model_time(schedule, count, grid)
    with np.errstate(invalid="ignore"):  # two of infinite noise
        falls = np.diff(points.log_snr) > 0
    return points.at(np.append(True, falls))  # a place or a level may come twice


def _table_size(schedule: Schedule) -> int:
    if schedule.kind == "ve":
        return EDM_TABLE
    whole, least = schedule.t_max - schedule.t_clean, schedule.unshift_time(schedule.t_min) - schedule.t_clean
    return schedule.num_train_timesteps or (round(whole / least) if least else round(1 / LEAST))


def _table(schedule: Schedule, size: int, places: np.ndarray) -> Points:
    """The table's points at these places."""
    if schedule.num_train_timesteps is not None:
        times = places.astype(np.float64)
    elif schedule.kind == "ve":
        low, high = np.log(schedule.sigma(np.array([schedule.t_min, schedule.t_max])))
        times = schedule.at_log_snr(-(low + (high - low) * places / (size - 1))).t
    else:
        times = schedule.shift_time(schedule.t_clean + (places + 1) / size * (schedule.t_max - schedule.t_clean))
    return schedule.at(_held(times, schedule.t_min, schedule.t_max))


def _held(values: np.ndarray, one: float, other: float) -> np.ndarray:
    """The values, those beyond one of these ends at it."""
    return np.clip(values, min(one, other), max(one, other))


def _of_levels(schedule: Schedule, levels: np.ndarray, low: float, high: float) -> Points:
    with np.errstate(invalid="ignore"):
        points = schedule.at_coordinate(levels)
    for level, t in ((low, schedule.t_min), (high, schedule.t_max)):
        for values, end in zip(points, schedule.at(t), strict=True):
            values[levels == level] = end  # exactly, not through log and exp
    return points


def _in_model_time(schedule: Schedule, count: int, grid: str) -> Points:
    """Uniform in the model's own time; "normal" with the least level, "sgm_uniform" a step short of it."""
    least = float(schedule.coordinate(schedule.at(schedule.t_min)))
    short = grid == "sgm_uniform" or least < ALL_BUT_CLEAN
    first, last = schedule.t_max, schedule.t_min
    if schedule.kind == "ve":
        first, last = (math.log(float(schedule.sigma(t))) for t in (first, last))
    u = np.linspace(first, last, count + 1)[:-1] if short else np.linspace(first, last, count)
    if schedule.kind == "ve":
        points = schedule.at_log_snr(-_held(u, first, last))
    elif schedule.num_train_timesteps is None:
        points = schedule.at(_held(schedule.shift_time(u), schedule.t_min, schedule.t_max))
    else:
        points = _between_indices(schedule, u)
    for values, start in zip(points, schedule.at(schedule.t_max), strict=True):
        values[0] = start
    return points


def _between_indices(schedule: Schedule, u: np.ndarray) -> Points:
    """log(sigma / alpha) is linear between whole indices, as ComfyUI has it; where it is infinite, the schedule's."""
    low = np.floor(u)
    before, after = schedule.log_snr(low), schedule.log_snr(np.ceil(u))
    with np.errstate(invalid="ignore"):
        points = schedule.at_log_snr(before + (u - low) * (after - before))
    own = (u == low) | ~np.isfinite(points.log_snr)
    return Points(*(np.where(own, exact, between) for exact, between in zip(schedule.at(u), points, strict=True)))
