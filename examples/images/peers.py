"""diffusers' own flow and EDM schedulers, in the loops that its pipelines write around them."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import torch
from diffusers import (
    DPMSolverMultistepScheduler,
    EDMEulerScheduler,
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
)
from torch import Tensor

Model = Callable[[Tensor, Tensor], Tensor]
SHIFT = 2.0
FLOW = {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": SHIFT}
SCHEDULERS = {
    "diffusers Euler": lambda: FlowMatchEulerDiscreteScheduler(shift=SHIFT),
    "diffusers DPM++ 2M": lambda: DPMSolverMultistepScheduler(**FLOW),
    "diffusers UniPC": lambda: UniPCMultistepScheduler(**FLOW),
}


@torch.no_grad()
def generate(name: str, model: Model, noise: Tensor, steps: int) -> Tensor:
    """Samples from noise, as StableDiffusion3Pipeline draws them."""
    scheduler = SCHEDULERS[name]()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scheduler.set_timesteps(steps)
    x = noise
    for t in scheduler.timesteps:
        x = scheduler.step(model(x, (t / 1000).expand(len(x)).float()), t, x).prev_sample
    return x


@torch.no_grad()
def edit(model: Model, image: Tensor, noise: Tensor, steps: int, skipped: int, mask: Tensor | None = None) -> Tensor:
    """Image to image and inpainting, as StableDiffusion3's pipelines do them: without the first `skipped` of all steps.

    mask: 1 where to generate; elsewhere the image with the noise of the next time is put back after each step.
    """
    scheduler = FlowMatchEulerDiscreteScheduler(shift=SHIFT)
    total = steps + skipped
    scheduler.set_timesteps(sigmas=np.linspace(1, 1 / total, total))
    times = scheduler.timesteps[skipped:]
    scheduler.set_begin_index(skipped)
    x = scheduler.scale_noise(image, times[:1], noise)
    for i, t in enumerate(times):
        x = scheduler.step(model(x, (t / 1000).expand(len(x))), t, x).prev_sample
        if mask is not None:
            known = image if i + 1 == steps else scheduler.scale_noise(image, times[i + 1 : i + 2], noise)
            x = torch.where(mask.bool(), x, known)
    return x


def restyle(
    network: Model,
    image: Tensor,
    noise: Tensor,
    steps: int,
    start: float,
    misfit: Callable[[Tensor], Tensor],
    strength: float,
) -> Tensor:
    """An image with noise of level `start`, each Euler step of the EDM followed by one down the gradient of the root of
    the misfit of the denoised (DPS, Chung et al. 2023, algorithm 1).

    network: F of the EDM's preconditioning; it reads 400 times the scheduler's times.
    """
    scheduler = EDMEulerScheduler(sigma_max=start)
    scheduler.set_timesteps(steps)
    x = image + start * noise
    for i, t in enumerate(scheduler.timesteps):
        x = x.detach().requires_grad_()
        raw = network(scheduler.scale_model_input(x, t), 400 * t.expand(len(x)))
        data = scheduler.precondition_outputs(x, raw, scheduler.sigmas[i])
        (slope,) = torch.autograd.grad(misfit(data).sqrt().sum(), x)
        x = scheduler.step(raw.detach(), t, x.detach()).prev_sample - strength * slope
    return x.detach()
