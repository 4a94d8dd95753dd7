"""A diffusion policy: lerobot's loop and schedulers around a trained network."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import DDIMScheduler, DDPMScheduler
from torch import Tensor, nn

import fastdiff as fd

from .demonstrations import HORIZON

EXECUTED = 8  # actions of a chunk that are taken before the next look
SCHEDULE = fd.Schedule.cosine(100)  # lerobot's default


class Policy(nn.Module):
    """The parts of lerobot's diffusion model that its loop has.

    unet: of a chunk's noise. reach: [16, 1] pixels from the agent: actions are these times numbers in [-1, 1].
    """

    def __init__(self, unet: nn.Module, reach: Tensor) -> None:
        super().__init__()
        self.unet, self.reach = unet, reach
        self.use("DDPM", 100)

    def use(self, name: str, steps: int) -> None:
        """diffusers' scheduler with lerobot's defaults."""
        kind: Any = {"DDPM": DDPMScheduler, "DDIM": DDIMScheduler}[name]
        self.noise_scheduler = kind(num_train_timesteps=100, beta_schedule="squaredcos_cap_v2", clip_sample=True)
        self.num_inference_steps = steps

    @torch.no_grad()
    def conditional_sample(
        self,
        batch_size: int,
        global_cond: Tensor | None = None,
        generator: torch.Generator | None = None,
        noise: Tensor | None = None,
    ) -> Tensor:
        """lerobot's loop."""
        x = torch.randn(batch_size, HORIZON, 2, generator=generator) if noise is None else noise
        self.noise_scheduler.set_timesteps(self.num_inference_steps)
        for t in self.noise_scheduler.timesteps:
            eps = self.unet(x, torch.full((len(x),), int(t)), global_cond)
            x = self.noise_scheduler.step(eps, t, x, generator=generator).prev_sample
        return x
