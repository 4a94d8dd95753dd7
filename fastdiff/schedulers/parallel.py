"""DDIM and DDPM for sampling many times of one run at once (Shih et al. 2023, arXiv 2305.16317).

`batch_step_no_noise` gives each sample the row that `step` has at its time, without its noise: the weights of all
training times lie in one tensor on the device, and a sample's own are gathered there.
"""

from __future__ import annotations

import diffusers
import numpy as np
import torch
from diffusers.schedulers.scheduling_ddim_parallel import DDIMParallelSchedulerOutput
from diffusers.schedulers.scheduling_ddpm_parallel import DDPMParallelSchedulerOutput
from torch import Tensor

from ..ops import dynamic_threshold, make_row, solver_step
from ..plans.row import Row
from .advance import predicting_part
from .base import FusedScheduler
from .ddim import DDIMScheduler, check_noise
from .ddpm import DDPMScheduler
from .opaque import opaque
from .rows import OUTPUT, Refused
from .run_state import Key, RunState, Scheduler
from .step import fused_step

IDENTITY = make_row(p_m=1.0, A=[1.0])  # x' = D = the weighted sum


class Parallel(FusedScheduler):
    """What both have besides their sequential classes."""

    @opaque()
    def _batch_step(self, model_output: Tensor, timesteps: Tensor, sample: Tensor, *key: float) -> tuple[Tensor]:
        self._require_steps(self._threads.run)
        run = self._threads.run
        m = model_output if model_output.shape == sample.shape else predicting_part(self, model_output, sample)
        device = sample.device
        weights = self._remembered(run, ("batch", key, device), lambda: _weights(self, run, key).to(device))
        own = weights[timesteps.reshape(-1).to(device)]
        clamp, threshold = self._bounds()
        bound = IDENTITY if clamp is None else make_row(p_m=1.0, A=[1.0], clamp=clamp)
        x0 = solver_step(sample, m, bound, weights=own[:, :1]).converted
        if threshold is not None:
            limit = dynamic_threshold(x0, ratio=threshold.ratio, limit=max(threshold.limit, 1.0))
            x0 = solver_step(sample, x0, IDENTITY, threshold=limit.clamp(max=threshold.limit)).converted
        new = solver_step(sample, x0, IDENTITY, others=[m], weights=own[:, 1:]).x
        return (new.to(torch.promote_types(m.dtype, sample.dtype)),)


def _weights(scheduler: Scheduler, run: RunState, key: Key) -> Tensor:
    """[T, 2, 6] of the op's weights at each training time: x0 of x and m; then x' of x, x0 and m."""
    total = len(run.alphas_cumprod)
    others = run.again()
    others.times, others.begin = np.arange(float(total)), 0
    whole = run.again()
    table = np.zeros((total, 2, 6))
    for part in (others, whole):  # the run's own times have their steps' own ends
        rows = scheduler.recipe.rows(scheduler, part, scheduler.recipe.space.points(scheduler, part, 0), key)
        table[part.times.astype(int)] = [_line(row) for row in rows]
    return torch.from_numpy(table)


def _line(row: Row | Refused) -> list[list[float]]:
    """m, m_uncond, m_2, m_3, x and state, twice. NaN for a row that cannot be made: nothing is read to say so."""
    if isinstance(row, Refused):
        return [[np.nan] * 6] * 2
    if row.form != "data":
        raise ValueError(f"timesteps: expected times at which x0 is known, got t = {row.t:g}")
    return [
        [row.p_m, 0.0, 0.0, 0.0, row.p_x, 0.0],
        [row.x.history[0], 0.0, dict(row.x.noise).get(OUTPUT, 0.0), 0.0, row.x.x, 0.0],
    ]


class DDIMParallelScheduler(Parallel, diffusers.DDIMParallelScheduler):
    """`DDIMScheduler`, also for many times at once."""

    recipe = DDIMScheduler.recipe
    step = fused_step(
        diffusers.DDIMParallelScheduler.step,
        DDIMParallelSchedulerOutput,
        key=("eta", "use_clipped_model_output"),
        check=check_noise,
    )

    def batch_step_no_noise(
        self,
        model_output: Tensor,
        timesteps: Tensor,
        sample: Tensor,
        eta: float = 0.0,
        use_clipped_model_output: bool = False,
    ) -> Tensor:
        """`step` at each sample's own time, without its noise.

        model_output, sample: [B, ...]. timesteps: [B] whole numbers. eta, use_clipped_model_output: as in `step`.
        """
        return self._batch_step(model_output, timesteps, sample, float(eta), float(use_clipped_model_output))[0]


class DDPMParallelScheduler(Parallel, diffusers.DDPMParallelScheduler):
    """`DDPMScheduler`, also for many times at once."""

    recipe = DDPMScheduler.recipe
    step = fused_step(diffusers.DDPMParallelScheduler.step, DDPMParallelSchedulerOutput)

    def batch_step_no_noise(self, model_output: Tensor, timesteps: Tensor, sample: Tensor) -> Tensor:
        """`step` at each sample's own time, without its noise.

        model_output: [B, ...], or with twice the channels where it predicts a variance. timesteps: [B] whole numbers.
        sample: [B, ...].
        """
        return self._batch_step(model_output, timesteps, sample)[0]
