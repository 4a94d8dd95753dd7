"""Ancestral steps on a rectified flow."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import diffusers
import numpy as np
from diffusers.schedulers.scheduling_ltx_euler_ancestral_rf import LTXEulerAncestralRFSchedulerOutput

from ..plans.row import LinearUpdate, Row
from ..plans.schedule import Points
from ..plans.solvers.ancestral import ddim_row
from ..plans.solvers.churn import renoised
from .base import FusedScheduler
from .euler import check_time
from .noise import float32_noise
from .own_times import own_times
from .recipe import Recipe
from .run_state import Key, RunState, Scheduler
from .spaces import Flow, flow_points
from .step import fused_step

CLEAN = 1e-8  # a sigma that diffusers takes for 0


def ancestral_flow_rows(scheduler: Scheduler, run: RunState, points: Points, key: Key) -> list[Row]:
    """Down to sigma_t (1 + eta (sigma_t / sigma_s - 1)), and with noise back up to sigma_t.

    A host's own sigmas have a time for their end too, whose step leaves the sample as it is.
    """
    rows = [_row(scheduler.config, points.at(i), points.at(i + 1)) for i in range(len(points.t) - 1)]
    if len(run.times) == len(run.host_sigmas):
        rows.append(Row.at(points.at(-1), "flow", "flow_prediction", LinearUpdate(x=1.0)))
    return rows


def _row(config: Any, s: Points, t: Points) -> Row:
    eta, s_noise = float(config.eta), float(config.s_noise)
    if t.sigma < CLEAN:
        return ddim_row(s, flow_points(np.float64(0.0)), "flow_prediction", 1)
    low = flow_points(t.sigma * (1 + (t.sigma / s.sigma - 1) * eta))
    row = ddim_row(s, low, "flow_prediction", 1)
    if eta == 0:
        return row
    row = renoised(row, low, t, 1, s_noise)
    return row if s_noise else replace(row, x=replace(row.x, noise=()))


class LTXEulerAncestralRFScheduler(FusedScheduler, diffusers.LTXEulerAncestralRFScheduler):
    """Euler's method on the flow to below the next sigma, and fresh noise back up to it (ComfyUI's sampler)."""

    recipe = Recipe(
        ancestral_flow_rows, Flow(fractional=True), output_dtype="sample", noise=float32_noise, keeps_output=False
    )
    set_timesteps = own_times(diffusers.LTXEulerAncestralRFScheduler.set_timesteps)
    step = fused_step(diffusers.LTXEulerAncestralRFScheduler.step, LTXEulerAncestralRFSchedulerOutput, check=check_time)
