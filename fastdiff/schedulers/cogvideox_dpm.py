"""CogVideoX's DPM-Solver++ 2M SDE: the caller hands the x0 of the step before to the next, and says when it was."""

from __future__ import annotations

import diffusers
import numpy as np
from diffusers.schedulers.scheduling_ddim_cogvideox import DDIMSchedulerOutput
from torch import Tensor

from ..plans.row import LinearUpdate, Row
from ..plans.schedule import Points
from ..plans.solvers.exponential import multistep
from .base import FusedScheduler
from .ddim import ends_of, has_own_times
from .direct import direct_step, told
from .noise import sample_noise
from .opaque import opaque
from .recipe import Recipe
from .run_state import Generators, RunState, Scheduler
from .spaces import TRAINING_TIME, VP_SCHEDULE


def dpm_row(scheduler: Scheduler, points: Points) -> Row:
    """From the last but one of the points to the last; of order 2 where there is one before, whose x0 is operand 1.

    Where that one has no signal, its x0 counts for nothing: the step before was infinite in lambda.
    """
    options = {"order": 2, "eta": 1.0, "lower_order_final": False}
    row = multistep(VP_SCHEDULE, points, scheduler.config.prediction_type, **options)[-1]
    now, before = (*row.x.history, 0.0)[:2]
    spread = row.x.noise[0][1] if row.x.noise else 0.0
    noise = ((1, before),) if len(points.t) > 2 else ()
    return Row.at(
        points.at(-2), "data", scheduler.config.prediction_type,
        LinearUpdate(x=row.x.x, history=(now,), noise=(*noise, (2, spread))),
    )  # fmt: skip


class CogVideoXDPMScheduler(FusedScheduler, diffusers.CogVideoXDPMScheduler):
    """DPM-Solver++ 2M for the reverse SDE (Lu et al. 2022, arXiv 2211.01095); of first order to the end of the times.

    eta, use_clipped_model_output, variance_noise, and the configuration's bounds on x0 change nothing, as in diffusers.
    """

    recipe = Recipe(None, TRAINING_TIME, bounds_x0=False)

    def step(
        self,
        model_output: Tensor,
        old_pred_original_sample: Tensor | None,
        timestep: int | Tensor,
        timestep_back: int | Tensor | None,
        sample: Tensor,
        eta: float = 0.0,
        use_clipped_model_output: bool = False,
        generator: Generators = None,
        variance_noise: Tensor | None = None,
        return_dict: bool = False,
    ) -> DDIMSchedulerOutput | tuple[Tensor, Tensor]:
        """The next sample, and x0, each [B, ...].

        model_output, sample: [B, ...]. old_pred_original_sample, timestep_back: the x0 and the time of the step before;
        None in the first one.
        """
        self._require_steps(self._threads.run)
        made = self._step(model_output, timestep, sample, timestep_back, old_pred_original_sample, generator)
        return DDIMSchedulerOutput(*made) if return_dict else made

    @opaque(results=2)
    def _step(
        self,
        model_output: Tensor,
        timestep: float | Tensor,
        sample: Tensor,
        timestep_back: float | Tensor | None,
        old: Tensor | None,
        generator: Generators,
    ) -> tuple[Tensor, Tensor]:
        run, time = told(self, timestep)
        times = [time, _end_of(self, run, time)]
        drawn = sample_noise(self, run, 0, model_output, sample, generator)
        operands = [drawn]
        if old is not None and times[1] >= 0:
            if timestep_back is None:
                raise ValueError("timestep_back: expected the time of old_pred_original_sample, got None")
            times.insert(0, told(self, timestep_back)[1])
            operands = [old, sample_noise(self, run, 0, model_output, sample, generator)]  # the second, as in diffusers
        points = run.at(np.array(times))
        new, _, x0 = direct_step(self, run, tuple(times), lambda: dpm_row(self, points), sample, model_output, operands)
        return new, x0.to(new.dtype)


def _end_of(scheduler: Scheduler, run: RunState, time: float) -> float:
    """Where the step from this time ends."""
    own = np.flatnonzero(run.times == time) if has_own_times(run) else ()
    if len(own):
        return float(ends_of(scheduler, run)[own[0]])
    return time - scheduler.config.num_train_timesteps // run.num_inference_steps
