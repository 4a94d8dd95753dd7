"""PNDM (Liu et al. 2022, arXiv 2202.09778): a mixture of noise predictions in place of the noise."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import diffusers
import numpy as np
from diffusers.schedulers.scheduling_utils import SchedulerOutput

from ..plans.row import BASE_UNCHANGED, Row
from ..plans.schedule import Points
from ..plans.solvers.adams import EQUAL_STEPS
from ..plans.solvers.pndm import transfer
from .base import FusedScheduler
from .recipe import Recipe
from .run_state import Key, RunAttribute, RunState, Scheduler
from .space import Placed, Wanted
from .spaces import TrainingTime
from .step import fused_step


class PlmsTime(TrainingTime):
    """PLMS on the caller's times, whose second is evaluated twice."""

    def place(self, scheduler: Scheduler, run: RunState, count: int, wanted: Wanted) -> Placed:
        times, _ = super().place(scheduler, run, count, wanted)
        run.prk_timesteps = np.array([])
        return np.insert(times, 1, times[1:2]), None


def pndm_rows(scheduler: Scheduler, run: RunState, points: Points, key: Key) -> list[Row]:
    """For the scheduler's model: Runge-Kutta steps of four stages unless skipped, then Adams' of four outputs."""
    stride = scheduler.config.num_train_timesteps // run.num_inference_steps
    begin, times = run.begin, run.times[run.begin :].astype(int)
    custom = run.custom_timesteps
    multistep = scheduler.config.skip_prk_steps or custom
    stages = 0 if multistep else max(0, len(run.prk_timesteps) - begin)
    following = dict(pairwise(times)) | {times[-1]: -1} if custom else {}
    rows, known = [], 0

    def row(time: int, first: int, to: int, mixture: tuple, from_base: bool, keeps: bool) -> Row:
        """The model evaluated at `time`; x goes from `first` to `to`."""
        line = transfer(run.at(first), run.at(to), mixture, base=from_base)
        base = BASE_UNCHANGED if keeps else None
        return Row.at(run.at(time), "noise", scheduler.config.prediction_type, line, base)

    for i, time in enumerate(times):
        stage = (begin + i) % 4
        if i < min(stages, -begin % 4):  # of a step that began before the run: on to the next of the times
            made = replace(row(time, time, times[i + 1], (1.0,), False, False), drop_history=(0,))
        elif i < stages:
            to = time - (0 if stage % 2 else stride // 2)
            mixture = (1 / 6, 1 / 3, 1 / 3, 1 / 6) if stage == 3 else (1.0,)
            made = row(time, times[i - stage], to, mixture, stage > 0, stage < 3)
            if stage == 3:
                made = replace(made, drop_history=(0, 1, 2))
            known += stage == 0
        elif multistep and i == 0:
            made = row(time, time, following.get(time, time - stride), (1.0,), False, len(times) > 1)
            known = 1
        elif multistep and i == 1:
            first = times[0] if custom else time + stride
            made = replace(row(time, first, time, (0.5, 0.5), True, False), drop_history=(0,))
        else:
            known = min(known + 1, 4)
            made = row(time, time, following.get(time, time - stride), EQUAL_STEPS[known - 1], False, False)
        rows.append(made)
    return rows


class PNDMScheduler(FusedScheduler, diffusers.PNDMScheduler):
    """PNDM, or PLMS with skip_prk_steps, as Stable Diffusion samples with it."""

    prk_timesteps = RunAttribute()
    recipe = Recipe(
        pndm_rows,
        PlmsTime(),
        begins_at_place=True,  # its second time comes twice on purpose
    )
    step = fused_step(diffusers.PNDMScheduler.step, SchedulerOutput)
