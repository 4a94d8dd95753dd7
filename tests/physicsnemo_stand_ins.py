"""PhysicsNeMo's protocol, where it is not installed: networks, patches, noise schedulers, the loop of `sample`."""

from __future__ import annotations

import math
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

SPREAD = 0.5


class Net:
    """D(x, x_lr, sigma, class_labels) of independent pixels N(mean of x_lr's channels, SPREAD^2); counts its calls."""

    sigma_min, sigma_max = 0.0, math.inf

    def __init__(self) -> None:
        self.sigmas: list[float] = []
        self.given: dict[str, Any] = {}

    def round_sigma(self, sigma: Any) -> Tensor:
        return torch.as_tensor(sigma)

    def __call__(
        self, x: Tensor, x_lr: Tensor, sigma: Tensor, class_labels: Tensor | None = None, **given: Any
    ) -> Tensor:
        self.sigmas.append(float(sigma))
        self.given = {"class_labels": class_labels, **given}
        gain = SPREAD**2 / (SPREAD**2 + sigma**2)
        return x_lr.mean(1, keepdim=True) * (1 - gain) + gain * x


class EDMPrecond(Net):
    """A network that takes its condition by name."""

    def __call__(self, x: Tensor, sigma: Tensor, condition: Tensor, class_labels: Tensor | None = None, **given: Any):
        return super().__call__(x, condition, sigma, class_labels, **given)


class GridPatching2D:
    """Two halves of the width; the condition of a patch is its own and the whole, which has as many channels more."""

    def apply(self, input: Tensor, additional_input: Tensor | None = None) -> Tensor:
        return torch.cat(input.chunk(2, dim=-1))

    def fuse(self, input: Tensor, batch_size: int) -> Tensor:
        return torch.cat(input.split(batch_size), dim=-1)


class EDMNoiseScheduler:
    """alpha = 1, sigma = t."""

    sigma_max, sigma_min, rho = 80.0, 0.002, 7.0

    def timesteps(self, num_steps: int, *, device: Any = None, dtype: torch.dtype | None = None) -> Tensor:
        high, low = self.sigma_max ** (1 / self.rho), self.sigma_min ** (1 / self.rho)
        share = torch.arange(num_steps, dtype=dtype, device=device) / (num_steps - 1)
        return torch.cat([(high + share * (low - high)) ** self.rho, torch.zeros(1, dtype=dtype)])

    def alpha(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def sigma(self, t: Tensor) -> Tensor:
        return t

    def alpha_dot(self, t: Tensor) -> Tensor:
        return torch.zeros_like(t)

    def sigma_dot(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def sigma_inv(self, sigma: Tensor) -> Tensor:
        return sigma

    def rate(self, x: Tensor, t: Tensor) -> Tensor:
        """dx/dt of pixels N(0, SPREAD^2)."""
        shape = (-1, *[1] * (x.ndim - 1))
        alpha, sigma, alpha_dot, sigma_dot = (
            f(t).view(shape) for f in (self.alpha, self.sigma, self.alpha_dot, self.sigma_dot)
        )
        variance = alpha**2 * SPREAD**2 + sigma**2
        return (alpha_dot * alpha * SPREAD**2 + sigma_dot * sigma) / variance * x


class VPNoiseScheduler(EDMNoiseScheduler):
    """alpha = cos t, sigma = sin t."""

    def timesteps(self, num_steps: int, *, device: Any = None, dtype: torch.dtype | None = None) -> Tensor:
        times = torch.linspace(1.55, 0.01, num_steps, dtype=dtype)
        return torch.cat([times, torch.zeros(1, dtype=dtype)])

    def alpha(self, t: Tensor) -> Tensor:
        return t.cos()

    def sigma(self, t: Tensor) -> Tensor:
        return t.sin()

    def alpha_dot(self, t: Tensor) -> Tensor:
        return -t.sin()

    def sigma_dot(self, t: Tensor) -> Tensor:
        return t.cos()

    def sigma_inv(self, sigma: Tensor) -> Tensor:
        return sigma.asin()


def sample(denoiser: Any, xN: Tensor, noise_scheduler: Any, num_steps: int, solver: Any) -> Tensor:
    """The loop of PhysicsNeMo's function."""
    times, x = noise_scheduler.timesteps(num_steps, device=xN.device, dtype=xN.dtype), xN
    for i in range(len(times) - 1):
        x = solver.step(x, times[i].expand(len(x)), times[i + 1].expand(len(x)))
    return x


def modules() -> dict[str, ModuleType]:
    """What `import physicsnemo...` finds."""
    names = ("", ".diffusion", ".diffusion.preconditioners", ".diffusion.multi_diffusion")
    found = {f"physicsnemo{name}": ModuleType(f"physicsnemo{name}") for name in names}
    found["physicsnemo.diffusion.preconditioners"].EDMPrecond = EDMPrecond  # type: ignore[attr-defined]
    found["physicsnemo.diffusion.multi_diffusion"].GridPatching2D = GridPatching2D  # type: ignore[attr-defined]
    return found
