"""UnCLIP's DDPM: the caller says where each step ends."""

from __future__ import annotations

import math
from dataclasses import replace

import diffusers
import torch
from diffusers.schedulers.scheduling_unclip import UnCLIPSchedulerOutput
from torch import Tensor

from ..plans.row import Row
from ..plans.schedule import Points
from ..plans.solvers.ancestral import ddim_row
from .advance import predicting_part
from .base import FusedScheduler
from .ddpm import learned_noise, variances
from .direct import direct_step, told
from .noise import output_noise
from .opaque import opaque
from .recipe import Recipe
from .run_state import Generators, Scheduler, new_run
from .spaces import TrainingTime

VARIANCES = ("fixed_small_log", "learned_range")


def posterior_row(scheduler: Scheduler, s: Points, t: Points) -> Row:
    """The posterior of the diffusion process; where the model predicts the variance, its noise comes with it."""
    row = ddim_row(s, t, scheduler.config.prediction_type, 1, 1.0)
    spread = 1.0 if scheduler.variance_type == "learned_range" else math.sqrt(variances(s, t)[0])
    return replace(row, x=replace(row.x, noise=((1, spread),) if s.t > 0 else ()))


class UnCLIPScheduler(FusedScheduler, diffusers.UnCLIPScheduler):
    """The posterior of the diffusion process (Ho et al. 2020, arXiv 2006.11239, eq. 7)."""

    recipe = Recipe(None, TrainingTime(ready=True), reads=("variance_type",), final_alpha="one")

    def set_timesteps(self, num_inference_steps: int, device: str | torch.device | None = None) -> None:
        """Set the times of a run, from the last training time to 0; of one step, the last alone."""
        with new_run(self) as run:
            if num_inference_steps == 1:  # where diffusers divides by 0
                run.num_inference_steps = 1
                run.timesteps = torch.tensor([self.config.num_train_timesteps - 1], device=device)
            else:
                super(FusedScheduler, self).set_timesteps(num_inference_steps, device)

    def step(
        self,
        model_output: Tensor,
        timestep: int | Tensor,
        sample: Tensor,
        prev_timestep: int | Tensor | None = None,
        generator: Generators = None,
        return_dict: bool = True,
    ) -> UnCLIPSchedulerOutput | tuple[Tensor, Tensor]:
        """The sample at prev_timestep, and x0, each [B, ...].

        model_output: [B, ...], or with twice the channels where it predicts a variance. prev_timestep: the time before
        `timestep` where not given, as in diffusers. generator: of the noise.
        """
        new, x0 = self._posterior(model_output, timestep, sample, prev_timestep, generator)
        return UnCLIPSchedulerOutput(new, x0) if return_dict else (new, x0)

    @opaque(results=2)
    def _posterior(
        self,
        model_output: Tensor,
        timestep: float | Tensor,
        sample: Tensor,
        prev_timestep: float | Tensor | None,
        generator: Generators,
    ) -> tuple[Tensor, Tensor]:
        run, time = told(self, timestep)
        end = time - 1 if prev_timestep is None else told(self, prev_timestep)[1]
        s, t = run.at(time), run.at(end)
        operands = ()
        if time > 0:
            if self.variance_type not in VARIANCES:
                raise ValueError(f"variance_type: expected one of {', '.join(VARIANCES)}, got {self.variance_type!r}")
            drawn = output_noise(self, run, 0, model_output, sample, generator)
            if self.variance_type == "learned_range":
                if model_output.shape == sample.shape:
                    raise ValueError("model_output: expected twice the sample's channels with learned_range")
                drawn = learned_noise(drawn, model_output[:, sample.shape[1] :], variances(s, t))
            operands = (drawn.to(sample.device),)
        m = model_output if model_output.shape == sample.shape else predicting_part(self, model_output, sample)
        new, _, x0 = direct_step(self, run, (time, end), lambda: posterior_row(self, s, t), sample, m, operands)
        return new, x0.to(new.dtype)
