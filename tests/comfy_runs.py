"""Guided runs of ComfyUI around the tiny network of `comfy_guiders`, and what each of their steps should have given."""

from __future__ import annotations

from collections.abc import Callable

import torch
from comfy_guiders import conditioning
from torch import Tensor

from fastdiff import kdiffusion

SIGMAS = torch.tensor([14.6, 9.0, 5.0, 2.0, 0.7, 0.2, 0.0])
FLOW = torch.tensor([1.0, 0.9, 0.75, 0.5, 0.3, 0.1, 0.0])
POSITIVE, NEGATIVE, EMPTY = 0.5, -0.3, 0.1  # what the network sees of three prompts
STEP = 2e-6  # float32's error in one step
RUN = 3e-4  # and in whole runs: these networks enlarge what rounding leaves


def begin(count: int = 2) -> Tensor:
    return torch.randn(count, 4, 6, 5)


def levels(flow: bool) -> Tensor:
    return FLOW if flow else SIGMAS


def run(
    host: object,
    patcher: object,
    x: Tensor,
    sigmas: Tensor,
    cfg: float = 4.0,
    sampler: Callable = kdiffusion.sample_euler,
) -> Tensor:
    """A run with two prompts, as KSampler makes it."""
    guider = host.guider(patcher)
    guider.set_conds(conditioning(POSITIVE), conditioning(NEGATIVE))
    guider.set_cfg(cfg)
    patcher.model.diffusion_model.seen.clear()
    return host.run(guider, sampler, x, sigmas)


def denoised(patcher: object, x: Tensor, sigma: float, value: float, options: dict | None = None) -> Tensor:
    """The model's x0 at (x, sigma) under one condition, by the network itself."""
    model, level = patcher.model, torch.full((len(x),), sigma)
    context = conditioning(value)[0][0].expand(len(x), -1, -1)
    return model.apply_model(x, level, c_crossattn=context, transformer_options=options or {})


class Watch:
    """Euler's sampler that remembers what it saw."""

    def __init__(self) -> None:
        self.steps: list[dict] = []

    def __call__(self, *args: object, **kwargs: object) -> Tensor:
        return kdiffusion.sample_euler(*args, **{**kwargs, "callback": self.steps.append})

    def error(self, patcher: object, combine: Callable) -> float:
        """The guided outputs' largest distance from combine(x, D of a value and options, sigma), relative to x."""
        worst = 0.0
        for step in self.steps:
            x, sigma = step["x"], float(step["sigma"])
            at = lambda value, options=None, x=x, s=sigma: denoised(patcher, x, s, value, options)  # noqa: E731
            error = (step["denoised"] - combine(x, at, sigma)).abs().max()
            worst = max(worst, float(error / (x.abs().max() + sigma)))
        return worst


def dot(a: Tensor, b: Tensor) -> Tensor:
    """<a, b> of each sample, [B, 1, 1, 1]."""
    return (a * b).flatten(1).sum(1).view(-1, 1, 1, 1)
