"""RePaint: a step down where the picture is unknown, the noised picture where it is known, and steps back up."""

from __future__ import annotations

import math
from dataclasses import replace

import diffusers
import torch
from diffusers.schedulers.scheduling_repaint import RePaintSchedulerOutput
from torch import Tensor

from ..ops.reference import compute_dtype
from ..plans.row import LinearUpdate, Row
from ..plans.schedule import Points
from ..plans.solvers.ancestral import ddim_clipped_row, step_down
from .base import FusedScheduler
from .direct import direct_step, told
from .noise import output_noise, sample_noise
from .opaque import opaque
from .recipe import Recipe
from .run_state import Generators
from .spaces import TrainingTime


class GivenJumps(TrainingTime):
    """Times are diffusers' own: they go down and up again."""

    def is_native(self, scheduler: object, given: dict[str, object], names: object) -> bool:
        return True


def repaint_row(s: Points, t: Points, eta: float) -> Row:
    """x' where the picture is unknown; base', of the known picture as base, where it is known: of the same noise.

    A bound on x0 leaves eps as the model predicted it.
    """
    share, noise = step_down(s, t, eta)
    row = ddim_clipped_row(s, t, "epsilon", share, noise if s.t > 0 else 0.0)
    drawn = row.x.noise if len(row.x.noise) > 1 else (*row.x.noise, (1, 0.0))
    known = LinearUpdate(base=float(t.alpha), noise=((1, float(t.sigma)),))
    return replace(row, x=replace(row.x, noise=drawn), base=known)


class RePaintScheduler(FusedScheduler, diffusers.RePaintScheduler):
    """RePaint (Lugmayr et al. 2022, arXiv 2201.09865, algorithm 1), with DDIM's step for DDPM's."""

    recipe = Recipe(None, GivenJumps(), reads=("eta",))

    def set_timesteps(
        self,
        num_inference_steps: int,
        jump_length: int = 10,
        jump_n_sample: int = 10,
        device: str | torch.device | None = None,
    ) -> None:
        """Set the times of a run: jump_n_sample times up and down again by jump_length steps, every jump_length."""
        super().set_timesteps(num_inference_steps, jump_length, jump_n_sample, device)

    def step(
        self,
        model_output: Tensor,
        timestep: int | Tensor,
        sample: Tensor,
        original_image: Tensor,
        mask: Tensor,
        generator: Generators = None,
        return_dict: bool = True,
    ) -> RePaintSchedulerOutput | tuple[Tensor, Tensor]:
        """The next sample, and x0, each [B, ...].

        model_output, sample: [B, ...]. original_image: broadcasts to [B, ...]. mask: the same, 1 where it is known.
        """
        made = self._step(model_output, timestep, sample, original_image, mask, generator)
        return RePaintSchedulerOutput(*made) if return_dict else made

    @opaque(results=2)
    def _step(
        self,
        model_output: Tensor,
        timestep: float | Tensor,
        sample: Tensor,
        original_image: Tensor,
        mask: Tensor,
        generator: Generators,
    ) -> tuple[Tensor, Tensor]:
        self._require_steps(self._threads.run)
        run, time = told(self, timestep)
        s, t = run.at(time), run.at(time - self.config.num_train_timesteps // run.num_inference_steps)
        drawn = output_noise(self, run, 0, model_output, sample, generator).to(sample.device)
        known = original_image.to(sample.device).expand(sample.shape)
        make = lambda: repaint_row(s, t, self.eta)  # noqa: E731
        new, known, x0 = direct_step(self, run, (time,), make, sample, model_output, (model_output, drawn), known)
        return torch.lerp(new, known.to(new.dtype), mask.to(new.dtype)), x0.to(new.dtype)

    def undo_step(self, sample: Tensor, timestep: int | Tensor, generator: Generators = None) -> Tensor:
        """The sample [B, ...] as the diffusion process noises it over one step's training times from `timestep` on."""
        self._require_steps(self._threads.run)
        run, time = told(self, timestep)
        count = self.config.num_train_timesteps // run.num_inference_steps
        exact = sample.to(compute_dtype(sample.dtype))  # in bfloat16 nothing would be left of such short steps
        for beta in self.betas[int(time) : int(time) + count].tolist():
            noise = sample_noise(self, run, 0, sample, sample, generator)
            exact = torch.add(math.sqrt(1 - beta) * exact, noise, alpha=math.sqrt(beta))
        return exact.to(sample.dtype)
