"""One gentle model and the loop that pipelines write, for the tests of fastdiff.schedulers."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable

import diffusers
import torch
from torch import Tensor


def model(x: Tensor, t: Tensor | float) -> Tensor:
    """Smooth, of slope at most 1/2, mixes the components, depends on t; in float64 inside."""
    t = torch.as_tensor(t, dtype=torch.float64).reshape(-1, *[1] * (x.ndim - 1)) / 1000
    y = x.double()
    return (0.3 * torch.sin(y + 2 * t) + 0.2 * torch.tanh(y.roll(1, -1)) + 0.1 * t).to(x.dtype)


def start(scheduler: object, shape: tuple[int, ...] = (2, 3, 6, 5), dtype: torch.dtype = torch.float32) -> Tensor:
    noise = torch.randn(shape, dtype=torch.float32, generator=torch.Generator().manual_seed(1))
    return (noise * getattr(scheduler, "init_noise_sigma", 1.0)).to(dtype)


def with_variance(x: Tensor, t: Tensor | float) -> Tensor:
    """The model's prediction and, in as many channels again, a variance in (0, 1)."""
    return torch.cat([model(x, t), 0.5 + 0.4 * torch.sin(x)], dim=1)


class LMSFromAnyStep(diffusers.LMSDiscreteScheduler):
    """diffusers takes the order from the step's number, and leaves out the outputs that a late start does not have."""

    def get_lms_coefficient(self, order: int, t: int, current_order: int) -> float:
        return super().get_lms_coefficient(min(order, len(self.derivatives)), t, current_order)


@functools.cache
def draws(kind: type) -> bool:
    return "generator" in inspect.signature(kind.step).parameters


def loop(
    scheduler: object,
    *,
    dtype: torch.dtype = torch.float32,
    begin: int = 0,
    seed: int = 3,
    network: Callable[[Tensor, Tensor], Tensor] = model,
    **options: object,
) -> tuple[Tensor, float]:
    """(the sample after the steps from number `begin` on, the largest magnitude on the way)."""
    x = start(scheduler, (2, 3, 6, 5), dtype)
    largest = float(x.abs().max())
    if draws(type(scheduler)):
        options["generator"] = [torch.Generator().manual_seed(seed + b) for b in range(len(x))]
    for t in scheduler.timesteps[begin:]:
        read = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
        x = scheduler.step(network(read, t), t, x, return_dict=False, **options)[0]
        largest = max(largest, float(x.abs().max()))
    return x, largest
