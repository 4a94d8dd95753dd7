"""Runs of few evaluations as numbers: their noise levels, and the share of each prediction of x0 in each step.

The step of every linear solver that is exact for constant x0 is DDIM's along a weighted mean of the predictions so far,

    x_t = (sigma_t / sigma_s) x_s + (alpha_t - alpha_s sigma_t / sigma_s) sum_j w_j x0_j,    sum_j w_j = 1.

A solver is a rule for the w. With a handful of steps the w can be chosen themselves: see `default_tables`. They stay
the same where all of sigma / alpha is multiplied by one factor, as a shift of the flow's time or another spread of the
data does. Schedules that begin at a lower level have all levels lower in proportion.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from .grid import times_odds
from .row import LinearUpdate, Row
from .schedule import Points, Schedule
from .solvers.exponential import first_order

EDM_SPREAD = 0.5  # sigma_data of Karras et al. 2022


class Table(NamedTuple):
    """levels: of the second evaluation on over the first one's, as the time of a flow, sigma / (alpha + sigma), of data
    of unit spread.

    shares: for each step but the first the shares of the predictions of x0 before the newest one, oldest first; the
    newest has what is missing to 1.
    """

    levels: tuple[float, ...]
    shares: tuple[tuple[float, ...], ...]


def spread_of(schedule: Schedule) -> float:
    """Of the data that a schedule is made for, in its own units.

    Who places half of the times at a sigma / alpha of s has data of large structures, or of many pixels, rather than of
    a spread of s: s counts for half, in its logarithm. Of a flow s is its shift.
    """
    if schedule.kind == "ve":
        return EDM_SPREAD
    middle = schedule.at(schedule.shift_time(np.asarray(0.5 * (schedule.t_max + schedule.t_clean))))
    return math.sqrt(float(middle.sigma / middle.alpha))


def scaled_levels(levels: Any, first: float, spread: float) -> Any:
    """`Table.levels` as the flow's time on a schedule whose first level is `first`, for data of that spread."""
    return times_odds(levels * times_odds(first, 1 / spread), spread)


def points_of(table: Table, schedule: Schedule, spread: float | None = None) -> Points | None:
    """The points of a run from t_max to clean data; None where the schedule ends above the last level.

    spread: of the data, in the schedule's units; by default the one that the schedule is made for.
    """
    spread = spread_of(schedule) if spread is None else spread
    ends = schedule.at(np.array([schedule.t_max, schedule.t_min]))
    first, least = schedule.coordinate(ends, "flow")
    levels = schedule.stretch_times(scaled_levels(np.array(table.levels), first, spread))
    if levels[-1] <= least:
        return None
    inner = schedule.at_coordinate(levels, "flow")
    clean = (schedule.t_clean, 1.0, 0.0)
    columns = zip(schedule.at(schedule.t_max), inner, clean, strict=True)
    return Points(*(np.concatenate([[first], between, [end]]) for first, between, end in columns))


def tabulated(points: Points, prediction: str, shares: Sequence[Sequence[float]]) -> list[Row]:
    """One row a step, with `Table.shares`."""
    rows = []
    for i, older in enumerate(((), *shares)):
        s, t = points.at(i), points.at(i + 1)
        x, data = first_order(s, t, "data")
        weights = (1 - sum(older), *reversed(older))  # newest first, as the history is
        rows.append(Row.at(s, "data", prediction, LinearUpdate(x=x, history=tuple(data * w for w in weights))))
    return rows
