"""The published noise levels of "Align Your Steps" (Sabour et al. 2024, arXiv 2404.14507), for any number of steps.

A table is ten noise levels sigma / alpha, optimised for one model; those of Stable Diffusion are published as training
indices of its schedule. Other numbers of steps interpolate log(sigma / alpha) linearly, as the paper does.
"""

from __future__ import annotations

import numpy as np

from .schedule import Points, Schedule

TIMES = {
    "sd15": (999, 850, 736, 645, 545, 455, 343, 233, 124, 24),
    "sdxl": (999, 845, 730, 587, 443, 310, 193, 116, 53, 13),
}
SIGMAS = {"svd": (700.0, 54.5, 15.886, 7.977, 4.248, 1.789, 0.981, 0.403, 0.173, 0.034)}
LEAST = {"svd": 0.002}


def align_your_steps(schedule: Schedule, count: int, name: str = "") -> Points:
    """`count` noisy points by the table of that name: "svd" on EDM schedules and "sd15" on others where not given.

    The first point is the schedule's own start. Raises ValueError where the schedule does not reach all sigmas of the
    table.
    """
    tables = _tables()
    name = name or ("svd" if schedule.kind == "ve" else "sd15")
    if name not in tables:
        raise ValueError(f"grid: expected ays:{', ays:'.join(tables)}, got 'ays:{name}'")
    if not _covers(schedule, tables[name]):
        others = [f"ays:{other}" for other, table in tables.items() if _covers(schedule, table)]
        high, low = np.exp(-tables[name][[0, -1]])
        raise ValueError(
            f"grid: the {name} table of 'ays' has sigma/alpha from {high:.4g} to {low:.4g}, this is {schedule!r}; make"
            f" the schedule with that range, or use one of {', '.join([*others, 'karras', 'logsnr'])}"
        )
    place = np.linspace(0, len(tables[name]) - 1, count)
    points = schedule.at_log_snr(np.interp(place, np.arange(len(tables[name])), tables[name]))
    for values, start in zip(points, schedule.at(schedule.t_max), strict=True):
        values[0] = start
    return points


def levels_of_model(name: str) -> np.ndarray:
    """log_snr of a table, rising, and at its end the least noise of the model that the table is for."""
    last = -np.log(LEAST[name]) if name in LEAST else float(Schedule.scaled_linear().log_snr(0.0))
    return np.append(_tables()[name], last)


def _tables() -> dict[str, np.ndarray]:
    """log_snr of each table, rising."""
    stable_diffusion = Schedule.scaled_linear()
    by_time = {name: stable_diffusion.log_snr(times) for name, times in TIMES.items()}
    return by_time | {name: -np.log(sigmas) for name, sigmas in SIGMAS.items()}


def _covers(schedule: Schedule, log_snr: np.ndarray) -> bool:
    """Whether the schedule has all of these noise levels, up to the rounding of tables kept in float32."""
    first, last = (float(schedule.log_snr(t)) for t in (schedule.t_max, schedule.t_min))
    return first - 1e-3 <= log_snr[0] and log_snr[-1] <= last
