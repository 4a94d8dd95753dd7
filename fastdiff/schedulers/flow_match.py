"""Solvers of flow models, x = (1 - sigma) x0 + sigma eps: Euler and Heun."""

from __future__ import annotations

from dataclasses import replace

import diffusers
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteSchedulerOutput
from diffusers.schedulers.scheduling_flow_match_heun_discrete import FlowMatchHeunDiscreteSchedulerOutput

from ..plans.row import LinearUpdate, Row
from ..plans.schedule import Points
from ..plans.solvers.adams import adams
from ..plans.solvers.consistency import consistency
from ..plans.solvers.karras import heun
from .base import FusedScheduler
from .euler import check_time, churns
from .heun import state_in_first_order
from .noise import float32_noise
from .recipe import Recipe
from .rows import with_noise
from .run_state import Key, RunAttribute, RunState, Scheduler
from .spaces import FLOW, FLOW_SCHEDULE, FLOW_TWICE, keep_one_time
from .step import fused_step


def flow_euler_rows(scheduler: Scheduler, run: RunState, points: Points, key: Key) -> list[Row]:
    """With stochastic_sampling to x0, and fresh noise back up."""
    if scheduler.config.stochastic_sampling:
        return [with_noise(row) for row in consistency(FLOW_SCHEDULE, points, "flow_prediction", noise_left=0.0)]
    return adams(FLOW_SCHEDULE, points, "flow_prediction", order=1, coordinate="flow")


class FlowMatchEulerDiscreteScheduler(FusedScheduler, diffusers.FlowMatchEulerDiscreteScheduler):
    """Euler's method on the flow (Lipman et al. 2023, arXiv 2210.02747), or fresh noise after each prediction of x0.

    Steps with times of their own for each token are diffusers' own. s_churn and its like change nothing, as there.
    """

    recipe = Recipe(flow_euler_rows, FLOW, output_dtype="output", noise=float32_noise, keeps_output=False)
    step = fused_step(
        diffusers.FlowMatchEulerDiscreteScheduler.step,
        FlowMatchEulerDiscreteSchedulerOutput,
        native=lambda scheduler, options: options.get("per_token_timesteps") is not None,
        check=check_time,
    )
    stretch_shift_to_terminal = keep_one_time(diffusers.FlowMatchEulerDiscreteScheduler.stretch_shift_to_terminal)


def flow_heun_rows(scheduler: Scheduler, run: RunState, points: Points, key: Key) -> list[Row]:
    """For a model that predicts v."""
    rows = heun(FLOW_SCHEDULE, points, "flow_prediction", coordinate="flow", clean_end="euler")
    sigmas = [None, *(row.sigma for row in rows)]
    return [_in_velocity(row, before) for row, before in zip(rows, sigmas, strict=False)]


def _in_velocity(row: Row, before: float | None) -> Row:
    """A row in data form with D = v instead, x0 = x - sigma v: near sigma = 0 its weights stay small.

    before: sigma at the base, where H_1 comes from.
    """
    line = row.x
    d_0, d_1 = (*line.history, 0.0)[:2]
    history = (-d_0 * row.sigma, -d_1 * before) if d_1 else (-d_0 * row.sigma,)
    line = LinearUpdate(base=line.base + d_1, x=line.x + d_0, history=history)
    return replace(row, form="flow", p_x=0.0, p_m=1.0, x=line)


class FlowMatchHeunDiscreteScheduler(FusedScheduler, diffusers.FlowMatchHeunDiscreteScheduler):
    """Heun's method on the flow; with s_churn, diffusers' own step."""

    dt, prev_derivative, sample = RunAttribute(), RunAttribute(), RunAttribute()
    recipe = Recipe(flow_heun_rows, FLOW_TWICE, output_dtype="output")
    step = fused_step(
        diffusers.FlowMatchHeunDiscreteScheduler.step,
        FlowMatchHeunDiscreteSchedulerOutput,
        native=churns,
        check=check_time,
    )
    state_in_first_order = state_in_first_order
