"""DPM-Solver and DPM-Solver++, multistep: ODE, SDE, and towards more noise."""

from __future__ import annotations

import math
from collections.abc import Sequence

import diffusers
import numpy as np
from diffusers.schedulers.scheduling_utils import SchedulerOutput

from ..plans.row import LinearUpdate, Row
from ..plans.schedule import Points, Schedule
from ..plans.solvers.empty import around_empty_steps
from ..plans.solvers.exponential import multistep
from .base import FusedScheduler
from .noise import float32_noise, output_noise
from .recipe import Recipe
from .rows import with_noise
from .run_state import Key, RunState, Scheduler
from .space import Placed, Wanted, grid_of
from .spaces import VP_OR_FLOW, VpOrFlow, shifted
from .step import fused_step

SHORT_RUN = 15  # runs of fewer steps end with lower orders


def dpm_solver_rows(scheduler: Scheduler, run: RunState, points: Points, key: Key) -> list[Row]:
    """For the scheduler's model."""
    prediction, schedule = scheduler.config.prediction_type, scheduler.recipe.space.schedule(scheduler)

    def make(points: Points, places: list[int]) -> list[Row]:
        return configured_rows(scheduler, points, len(run.times), schedule, prediction)

    return around_empty_steps(points, prediction, make)


def configured_rows(scheduler: Scheduler, points: Points, steps: int, schedule: Schedule, prediction: str) -> list[Row]:
    """The rows of a multistep DPM-Solver with the options of the scheduler's configuration."""
    rows = multistep_rows(scheduler, points, steps, schedule, prediction, scheduler.config.algorithm_type)
    return [with_noise(row) for row in rows] if scheduler.config.algorithm_type.startswith("sde") else rows


def multistep_rows(
    scheduler: Scheduler, points: Points, steps: int, schedule: Schedule, prediction: str, algorithm: str
) -> list[Row]:
    """The same of a named algorithm, with noise where it has a weight."""
    config = scheduler.config
    options = {
        "order": config.solver_order,
        "form": form_of(algorithm),
        "correction": config.solver_type,
        "eta": float(algorithm.startswith("sde")),
    }
    lower = bool(config.lower_order_final) and steps < SHORT_RUN
    rows = multistep(schedule, points, prediction, lower_order_final=lower, **options)
    if config.euler_at_final:
        rows[-1:] = multistep(schedule, points.at(slice(-2, None)), prediction, **{**options, "order": 1})
    return rows


def form_of(algorithm: str) -> str:
    """What the solver takes from the model: the data, or the noise."""
    return "data" if algorithm.endswith("++") else "noise"


class DPMSolverMultistepScheduler(FusedScheduler, diffusers.DPMSolverMultistepScheduler):
    """DPM-Solver and DPM-Solver++ of order 1 to 3, ODE and SDE (Lu et al. 2022, arXiv 2206.00927, 2211.01095)."""

    recipe = Recipe(dpm_solver_rows, VP_OR_FLOW, output_dtype="output", noise=float32_noise)
    step = fused_step(diffusers.DPMSolverMultistepScheduler.step, SchedulerOutput)


class RisingVpOrFlow(VpOrFlow):
    """The same from clean data to noise."""

    def is_native(self, scheduler: Scheduler, given: dict[str, object], names: Sequence[str]) -> bool:
        return not self.flows(scheduler) and super().is_native(scheduler, given, names)

    def place(self, scheduler: Scheduler, run: RunState, count: int, wanted: Wanted) -> Placed:
        if not self.flows(scheduler):
            return super().place(scheduler, run, count, wanted)
        if grid := grid_of(scheduler):
            raise ValueError(f"{grid}: expected none beside use_flow_sigmas, which says what the sigmas are")
        total = scheduler.config.num_train_timesteps
        own = 1 - np.linspace(1, 1 / total, count + 1)
        own[0] = min(1 / total, own[1] / 2)
        if wanted.sigmas is not None:
            own[:-1] = wanted.sigmas
        sigmas = shifted(own, scheduler.config.flow_shift, wanted.mu)
        if wanted.timesteps is not None:
            sigmas[:-1] = wanted.timesteps / total
        if sigmas[0] <= 0 or (np.diff(sigmas) < 0).any():
            raise ValueError(f"timesteps, sigmas: expected levels that rise from above 0 to {sigmas[-1]}, got {sigmas}")
        return sigmas[:-1] * total, sigmas


def inverse_rows(scheduler: Scheduler, run: RunState, points: Points, key: Key) -> list[Row]:
    """The ODE's rows are the solver's own; the SDE's those of the forward process."""
    if not scheduler.config.algorithm_type.startswith("sde"):
        return dpm_solver_rows(scheduler, run, points, key)
    config = scheduler.config
    form, prediction = form_of(config.algorithm_type), config.prediction_type

    def make(points: Points, places: list[int]) -> list[Row]:
        return [_noising(points.at(i), points.at(i + 1), form, prediction) for i in range(len(places))]

    return around_empty_steps(points, prediction, make)


def _noising(s: Points, t: Points, form: str, prediction: str) -> Row:
    """q(x_t | x_s) of the forward process."""
    ratio = float(t.alpha / s.alpha)
    variance = float(t.sigma**2 - (ratio * s.sigma) ** 2)
    if variance < 0:
        raise ValueError(f"sigmas: expected levels that rise, got sigma = {s.sigma:.5g} before {t.sigma:.5g}")
    return Row.at(s, form, prediction, LinearUpdate(x=ratio, noise=((1, math.sqrt(variance)),)))


class DPMSolverMultistepInverseScheduler(FusedScheduler, diffusers.DPMSolverMultistepInverseScheduler):
    """The multistep DPM-Solvers towards more noise.

    Upwards the SDE is dx = (f x - (1 - eta^2) / 2 g^2 score) dt + eta g dw, and the "sde" algorithms have eta = 1. The
    score has no weight then: it is the noising process, x_t = (alpha_t / alpha_s) x_s + noise, exact in any number of
    steps of any order, and the model's output changes nothing.
    With use_flow_sigmas the sigmas are DPMSolverMultistepScheduler's the other way round; where those end on clean
    data, these begin at the first training time. `timesteps` and `sigmas` rise too, and the end is the largest sigma.
    """

    recipe = Recipe(inverse_rows, RisingVpOrFlow(absent_is_last=True), noise=output_noise)
    step = fused_step(diffusers.DPMSolverMultistepInverseScheduler.step, SchedulerOutput)
