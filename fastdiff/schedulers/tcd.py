"""Sampling of models from trajectory consistency distillation."""

from __future__ import annotations

import math
from dataclasses import replace

import diffusers
from diffusers.schedulers.scheduling_tcd import TCDSchedulerOutput

from ..plans.row import LinearUpdate, Row
from ..plans.schedule import Points
from ..plans.solvers.ancestral import ddim_row
from ..plans.solvers.churn import renoised
from .base import FusedScheduler
from .noise import wider_noise
from .recipe import Recipe
from .run_state import Generators, Key, RunState, Scheduler
from .spaces import TRAINING_TIME
from .step import fused_step


def tcd_rows(scheduler: Scheduler, run: RunState, points: Points, key: Key) -> list[Row]:
    """Down to (1 - eta) of the next of the times, which base' is, and with noise back up to it. key: eta."""
    (eta,), rows = key, []
    for i, after in enumerate([*run.times[run.begin + 1 :], 0.0]):
        t, low = run.at(after), run.at(math.floor((1 - eta) * after))
        row = ddim_row(points.at(i), low, scheduler.config.prediction_type, 1)
        down = LinearUpdate(x=row.x.x, history=row.x.history)
        if eta > 0 and run.begin + i != run.num_inference_steps - 1:
            row = renoised(row, low, t, 1, 1.0)
        rows.append(replace(row, base=down))
    return rows


def check_eta(scheduler: Scheduler, timestep: object, generator: Generators, options: dict) -> None:
    """Raises ValueError where eta is no share."""
    if not 0 <= options.get("eta", 0.0) <= 1:
        raise ValueError(f"eta: expected a number in [0, 1], got {options['eta']!r}")


class TCDScheduler(FusedScheduler, diffusers.TCDScheduler):
    """Trajectory consistency sampling (Zheng et al. 2024, arXiv 2402.19159, algorithm 4); eta is its gamma.

    clip_sample and thresholding of the configuration change nothing, as in diffusers.
    """

    recipe = Recipe(tcd_rows, TRAINING_TIME, extra="base", noise=wider_noise, keeps_output=False, bounds_x0=False)
    step = fused_step(diffusers.TCDScheduler.step, TCDSchedulerOutput, key=("eta",), check=check_eta)
