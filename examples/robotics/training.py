"""A few minutes of training on one core."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import fastdiff as fd
from fastdiff import training

from ..descent import descended
from .network import LEAST, MOST, SPREAD, Denoiser

SCHEDULE = fd.Schedule.edm(LEAST, MOST)


def noises(schedule: fd.Schedule, u: Tensor) -> Tensor:
    """ln(sigma) about the data's spread, and as far as samplers of few steps ask."""
    return training.log_normal(schedule, u, mean=-1.2, std=1.4)


def trained(told: Tensor, chunks: Tensor, steps: int, width: int = 192, batch: int = 256, seed: int = 0) -> nn.Module:
    """The denoiser after so many steps of Adam, averaged. told: [N, features]. chunks: [N, 16, 2] in [-1, 1]."""
    torch.manual_seed(seed)
    denoiser = Denoiser(told.mean(0), told.std(0).clamp(min=1e-3), width)
    average = training.averaged(denoiser, 0.999, warmup=9)
    adam = torch.optim.AdamW(denoiser.parameters(), 2e-3, weight_decay=1e-3)

    def loss() -> Tensor:
        rows = torch.randint(len(chunks), (batch,))
        return training.edm_loss(denoiser, SCHEDULE, chunks[rows], sigma_data=SPREAD, t=noises, global_cond=told[rows])

    return descended(loss, adam, average, denoiser, steps=steps, warmup=100)
