"""A network of the posterior mean of one-hot pitches: softmax over pitches, so it is trained by cross entropy."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, one_hot

import fastdiff as fd

from .corpus import LOW, PITCHES

SCALE = math.sqrt(PITCHES)  # of a one-hot vector without its mean, so that a number has variance 1
SCHEDULE = fd.Schedule.flow(shift=3.0)  # one-hot pitches are told apart in more noise than numbers are


def encode(voices: Tensor) -> Tensor:
    """MIDI pitches [B, 4, T] as x0 [B, 4 PITCHES, T]."""
    hot = (one_hot(voices - LOW, PITCHES).float() - 1 / PITCHES) * SCALE
    return hot.permute(0, 1, 3, 2).flatten(1, 2)


def decode(x0: Tensor) -> Tensor:
    """The likeliest pitches [B, 4, T]."""
    return x0.unflatten(1, (4, PITCHES)).argmax(2) + LOW


class Block(nn.Module):
    def __init__(self, width: int, dilation: int) -> None:
        super().__init__()
        self.norm, self.time = nn.GroupNorm(8, width), nn.Linear(64, 2 * width)
        self.wide = nn.Conv1d(width, width, 3, padding=dilation, dilation=dilation)
        self.out = nn.Conv1d(width, width, 1)

    def forward(self, h: Tensor, time: Tensor) -> Tensor:
        scale, shift = self.time(time)[:, :, None].chunk(2, 1)
        return h + self.out(nn.functional.silu(self.wide(self.norm(h) * (1 + scale) + shift)))


class Chorale(nn.Module):
    """E[x0 | x_t] of x [B, 4 PITCHES, T], t [B]; `logits` [B, 4, PITCHES, T] is what it is the softmax of."""

    def __init__(self, width: int = 128, dilations: tuple[int, ...] = (1, 2, 4, 8, 1, 2, 4, 8)) -> None:
        super().__init__()
        self.first = nn.Conv1d(4 * PITCHES, width, 3, padding=1)
        self.blocks = nn.ModuleList(Block(width, dilation) for dilation in dilations)
        self.last = nn.Sequential(nn.GroupNorm(8, width), nn.SiLU(), nn.Conv1d(width, 4 * PITCHES, 1))

    def logits(self, x: Tensor, t: Tensor) -> Tensor:
        angles = t.float()[:, None] * torch.logspace(0, 3, 32)
        time = torch.cat([angles.cos(), angles.sin()], 1)
        h = self.first(x)
        for block in self.blocks:
            h = block(h, time)
        return self.last(h).unflatten(1, (4, PITCHES))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        share = self.logits(x, t).softmax(2)
        return (share - 1 / PITCHES).mul(SCALE).flatten(1, 2)


def train(voices: Tensor, steps: int, batch: int = 48, width: int = 128, seed: int = 0) -> Chorale:
    """On windows [N, 4, T]; the average of the weights."""
    torch.manual_seed(seed)
    model = Chorale(width)
    average = fd.training.averaged(model, 0.995, warmup=9)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * min(1, (step + 1) / 50) * (1 - step / steps)
        pitches = voices[torch.randint(len(voices), (batch,))]
        x0 = encode(pitches)
        t = fd.training.usual(SCHEDULE, fd.training.strata(batch), "sample")
        x = fd.training.noised(SCHEDULE, x0, t, torch.randn_like(x0))
        loss = cross_entropy(model.logits(x, t).transpose(1, 2), pitches - LOW)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        average.update_parameters(model)
        if step % 200 == 0:
            print(f"step {step}: cross entropy {loss.item():.3f}")
    return average.module.eval()
