"""The network of the policy: a residual perceptron of a chunk, told of the scene and the noise, and its two views."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import fastdiff as fd

SPREAD = 0.25  # the standard deviation of actions in [-1, 1]
LEAST, MOST = 0.005, 40.0  # noise that the network tells apart


class Block(nn.Module):
    """h + f(scale * norm(h) + shift), scale and shift by what is told."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.told = nn.Linear(width, 2 * width)
        self.change = nn.Sequential(nn.Linear(width, 2 * width), nn.SiLU(), nn.Linear(2 * width, width))

    def forward(self, h: Tensor, told: Tensor) -> Tensor:
        scale, shift = self.told(told).chunk(2, -1)
        return h + self.change(self.norm(h) * (1 + scale) + shift)


class Denoiser(nn.Module):
    """D(x, sigma, global_cond): the chunk x0 [B, 16, 2] of x = x0 + sigma eps, in EDM's preconditioning.

    The features' mean and deviation [features] make them numbers of unit size.
    """

    def __init__(self, mean: Tensor, deviation: Tensor, width: int = 192, blocks: int = 3) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("deviation", deviation)
        self.first = nn.Linear(32, width)
        self.tell = nn.Sequential(nn.Linear(len(mean) + 32, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU())
        self.blocks = nn.ModuleList(Block(width) for _ in range(blocks))
        self.last = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 32))

    def forward(self, x: Tensor, sigma: Tensor, global_cond: Tensor) -> Tensor:
        sigma = sigma.to(x)[:, None, None]
        total = (sigma**2 + SPREAD**2).sqrt()
        said = self.network(x / total, sigma[:, 0].clamp(LEAST, MOST).log(), global_cond)
        return (SPREAD / total) ** 2 * x + sigma * SPREAD / total * said

    def network(self, x: Tensor, level: Tensor, global_cond: Tensor) -> Tensor:
        angles = level * torch.logspace(-1, 1, 16)
        seen = (global_cond - self.mean) / self.deviation
        told = self.tell(torch.cat([seen, angles.sin(), angles.cos()], 1))
        h = self.first(x.flatten(1))
        for block in self.blocks:
            h = block(h, told)
        return self.last(h).view_as(x)


class View(nn.Module):
    """What a denoiser means on a schedule: the noise in alpha x0 + sigma eps, or eps - x0 where it is a flow."""

    def __init__(self, denoiser: nn.Module, schedule: fd.Schedule) -> None:
        super().__init__()
        self.denoiser, self.schedule = denoiser, schedule

    def forward(self, x: Tensor, t: Tensor, global_cond: Tensor) -> Tensor:
        """[B, 16, 2]. t: [B] of the schedule."""
        point = self.schedule.at(t.double().numpy())
        alpha, sigma = (torch.as_tensor(v).to(x)[:, None, None] for v in (point.alpha, point.sigma))
        alpha = alpha.clamp(min=1e-6)  # 0 at the noisy end of a flow
        x0 = self.denoiser(x / alpha, (sigma / alpha).flatten(), global_cond)
        noise = (x - alpha * x0) / sigma
        return noise - x0 if self.schedule.kind == "flow" else noise
