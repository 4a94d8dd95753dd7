"""Stable Diffusion's schedule and the solvers' counterparts in diffusers, where it is installed."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
SOLVERS = {
    "2m": ("DPMSolverMultistepScheduler", {}),
    "2m_sde": ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
    "euler": ("EulerDiscreteScheduler", {}),
    "unipc": ("UniPCMultistepScheduler", {}),
    "unipc3": ("UniPCMultistepScheduler", {"solver_order": 3}),
}


def make_scheduler(solver: str) -> object:
    """Raises ImportError where there is no diffusers."""
    import diffusers

    name, options = SOLVERS[solver]
    return getattr(diffusers, name)(**options, **SCHEDULE)


@torch.no_grad()
def draw(scheduler: object, model: Callable[[Tensor, Tensor], Tensor], steps: int, noise: Tensor) -> Tensor:
    """A whole run, as diffusers' pipelines make it; model(x, t) with t [B]."""
    scheduler.set_timesteps(steps, device=noise.device)
    x = noise * scheduler.init_noise_sigma
    for t in scheduler.timesteps:
        m = model(scheduler.scale_model_input(x, t), t.expand(len(x)))
        x = scheduler.step(m, t, x, return_dict=False)[0]
    return x
