"""iPNDM (Liu et al. 2022, arXiv 2202.09778) on diffusers' sine schedule."""

from __future__ import annotations

import diffusers
import numpy as np
import torch
from diffusers.schedulers.scheduling_utils import SchedulerOutput

from ..plans.row import LinearUpdate, Row
from ..plans.schedule import Points
from ..plans.solvers.adams import EQUAL_STEPS
from ..plans.solvers.pndm import transfer
from .base import FusedScheduler
from .recipe import Recipe
from .run_state import Key, RunAttribute, RunState, Scheduler
from .space import Placed, Space, Wanted
from .step import fused_step


class Sine(Space):
    """Angles in units of pi / 2: alpha is their cosine, sigma their sine."""

    def place(self, scheduler: Scheduler, run: RunState, count: int, wanted: Wanted) -> Placed:
        times = np.arctan(wanted.sigmas[:-1]) * 2 / np.pi if wanted.timesteps is None else wanted.timesteps
        angles = np.append(times, 0.0) * np.pi / 2
        run.alphas, run.betas = torch.from_numpy(np.cos(angles)), torch.from_numpy(np.sin(angles))
        return times, None

    def points(self, scheduler: Scheduler, run: RunState, begin: int) -> Points:
        alphas, betas = (values.double().cpu().numpy()[begin:] for values in (run.alphas, run.betas))
        return Points(betas, alphas, betas)


def ipndm_rows(scheduler: Scheduler, run: RunState, points: Points, key: Key) -> list[Row]:
    """Adams' steps of up to four outputs, for a model that predicts v."""
    rows = []
    for i in range(len(points.t) - 1):
        s, t = points.at(i), points.at(i + 1)
        # At alpha = 0 only v tells x0; diffusers takes 0 there.
        blind = LinearUpdate(history=(float(t.sigma),))
        line = transfer(s, t, EQUAL_STEPS[min(i, 3)]) if s.alpha else blind
        rows.append(Row.at(s, "noise", "v_prediction", line))
    return rows


class IPNDMScheduler(FusedScheduler, diffusers.IPNDMScheduler):
    """iPNDM of order 4 on diffusers' sine schedule, whose model predicts v."""

    betas, alphas = RunAttribute(), RunAttribute()
    recipe = Recipe(ipndm_rows, Sine(fractional=True, run_tensors=("timesteps", "alphas", "betas")))
    step = fused_step(diffusers.IPNDMScheduler.step, SchedulerOutput)
