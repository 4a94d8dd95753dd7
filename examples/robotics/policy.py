"""A diffusion policy without training: the exact denoiser of what the expert did where the scene looked most alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from diffusers import DDIMScheduler, DDPMScheduler
from torch import Tensor, nn

import fastdiff as fd

from .expert import OUTLINE

HORIZON, EXECUTED = 16, 8  # actions of a chunk, and those of them that are taken before the next look
REACH = 256.0  # pixels: actions are targets relative to the agent, in [-1, 1]
SCHEDULE = fd.Schedule.cosine(100)  # lerobot's default
NEIGHBOURS, WIDTH = 8, 0.015  # demonstrated chunks that a denoiser mixes, and how far actions are from them


def features(seen: Tensor) -> Tensor:
    """[B, 68] of the last two observations [B, 2, 5]: agent, corners of the block, and these relative to the agent."""
    agent, block, angle = seen[..., :2], seen[..., 2:4], seen[..., 4]
    turn = torch.stack([angle.cos(), angle.sin(), -angle.sin(), angle.cos()], -1).unflatten(-1, (2, 2))
    corners = torch.as_tensor(OUTLINE, dtype=seen.dtype) @ turn + block[..., None, :]
    parts = (agent - 256, (corners - 256).flatten(-2), (corners - agent[..., None, :]).flatten(-2))
    return (torch.cat(parts, -1) / 256).flatten(1)


class Denoiser(nn.Module):
    """The noise in a chunk, exactly, where chunks are Gaussians of WIDTH around demonstrated ones."""

    def __init__(self, schedule: fd.Schedule = SCHEDULE) -> None:
        super().__init__()
        self.schedule = schedule

    def forward(self, x: Tensor, t: Tensor, global_cond: Tensor) -> Tensor:
        """[B, 16, 2] eps, or eps - x0 on a flow. t: [B]. global_cond: [B, K, 1 + 32] log-weights and chunks."""
        point = self.schedule.at(t.double().numpy())
        alpha, sigma = (torch.as_tensor(v, dtype=x.dtype)[:, None] for v in (point.alpha, point.sigma))
        log_weights, chunks, y = global_cond[..., 0], global_cond[..., 1:], x.flatten(1)
        total = alpha.square() * WIDTH**2 + sigma.square()
        away = (y[:, None] - alpha[..., None] * chunks).square().sum(-1)
        share = torch.softmax(log_weights - away / (2 * total), -1)
        mean = torch.einsum("bk,bkd->bd", share, chunks)
        x0 = (alpha * WIDTH**2 * y + sigma.square() * mean) / total
        noise = (y - alpha * x0) / sigma
        return (noise - x0 if self.schedule.kind == "flow" else noise).view_as(x)


class Policy(nn.Module):
    """The parts of lerobot's diffusion model that its loop has.

    episodes: (observations [T, 5], actions [T, 2]) of the expert.
    """

    def __init__(self, episodes: Sequence[tuple[np.ndarray, np.ndarray]]) -> None:
        super().__init__()
        told, wanted = zip(*(_windows(*episode) for episode in episodes), strict=True)
        self.told, self.wanted = torch.cat(told), torch.cat(wanted)
        self.unet = Denoiser()
        self.use("DDPM", 100)

    def use(self, name: str, steps: int) -> None:
        """diffusers' scheduler with lerobot's defaults."""
        kind: Any = {"DDPM": DDPMScheduler, "DDIM": DDIMScheduler}[name]
        self.noise_scheduler = kind(num_train_timesteps=100, beta_schedule="squaredcos_cap_v2", clip_sample=True)
        self.num_inference_steps = steps

    def look(self, seen: Tensor) -> Tensor:
        """[B, K, 1 + 32] the conditions of a chunk: the nearest demonstrations to observations [B, 2, 5]."""
        distance, nearest = torch.cdist(features(seen), self.told).square().topk(NEIGHBOURS, largest=False)
        log_weights = -distance / (2 * distance[:, 1:2] + 1e-6)
        return torch.cat([log_weights[..., None], self.wanted[nearest].flatten(2)], -1)

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


def _windows(observations: np.ndarray, actions: np.ndarray) -> tuple[Tensor, Tensor]:
    """(features [T, 68], the next actions [T, 16, 2]) at every step of an episode."""
    seen, last = torch.as_tensor(observations, dtype=torch.float32), torch.arange(len(observations))
    told = features(torch.stack([seen[(last - 1).clamp(min=0)], seen], 1))
    following = (last[:, None] + torch.arange(HORIZON)).clamp(max=len(seen) - 1)
    chunk = torch.as_tensor(actions, dtype=torch.float32)[following] - seen[:, None, :2]
    return told, (chunk / REACH).clamp(-1, 1)
