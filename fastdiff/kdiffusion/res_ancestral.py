"""Ancestral steps of RES (Zhang et al. 2023, arXiv 2308.02157), as ComfyUI takes them."""

from __future__ import annotations

import math

import numpy as np

from ..plans.catalogue import find_solver
from ..plans.row import Row
from ..plans.schedule import Points, Schedule
from ..plans.solvers.ancestral import step_down
from ..plans.solvers.churn import renoised
from .caller_sigmas import points_at
from .flow import sigma_down
from .loop import EDM

_RES = find_solver("res_multistep")[0].build


def res_ancestral(
    schedule: Schedule, points: Points, prediction: str, *, eta: float = 1.0, s_noise: float = 1.0
) -> list[Row]:
    """Second-order steps in log sigma down to sigma_down, and noise up to the next sigma by the forward process.

    The output before is placed as far back as the step before went down, which is further than it came.
    """
    rows: list[Row] = []
    before = 1.0  # how many times lower the step before went
    for i in range(len(points.t) - 1):
        s, t = points.at(i), points.at(i + 1)
        start, end = float(s.sigma), float(t.sigma)
        flow = schedule.kind == "flow"
        down = sigma_down(start, end, eta) if flow else end * step_down(s, t, eta)[0]
        past = [start * before] if rows else []
        rows += _RES(EDM, points_at(EDM, np.array([*past, start, down])), prediction)[-1:]
        if down < end:
            rows[-1] = renoised(rows[-1], schedule.at(down), t, i + 1, s_noise)
        before = start / down if down else math.inf
    return rows
