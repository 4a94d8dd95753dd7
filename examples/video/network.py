"""A velocity of videos by factorised convolutions: 3 x 3 in space, then 3 in time."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .data import FRAMES, SIZE

PATCH = 2


class Block(nn.Module):
    """Space and time, scaled and shifted by the noise's time. h [B, T, width, rows, columns]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(8, width, affine=False)
        self.time = nn.Linear(width, 2 * width)
        self.space = nn.Conv2d(width, width, 3, padding=1)
        self.frames = nn.Conv2d(3 * width, width, 1)  # of the frame before, this and the next
        nn.init.zeros_(self.frames.weight)
        nn.init.zeros_(self.frames.bias)

    def forward(self, h: Tensor, time: Tensor) -> Tensor:
        scale, shift = self.time(time)[:, None, :, None, None].chunk(2, 2)
        normed = self.norm(h.flatten(0, 1)).unflatten(0, h.shape[:2]) * (1 + scale) + shift
        inner = nn.functional.silu(self.space(normed.flatten(0, 1)).unflatten(0, h.shape[:2]))
        padded = nn.functional.pad(inner, (0, 0, 0, 0, 0, 0, 1, 1))
        around = torch.cat([padded[:, :-2], inner, padded[:, 2:]], 2)
        return h + self.frames(around.flatten(0, 1)).unflatten(0, h.shape[:2])


class Mover(nn.Module):
    """v(x [B, 1, T, H, W], t [B]) = E[eps - x0 | x], with PATCH x PATCH pixels in a place."""

    def __init__(self, width: int = 32, depth: int = 6) -> None:
        super().__init__()
        self.width = width
        places = SIZE // PATCH
        self.enter = nn.Conv2d(1, width, PATCH, PATCH)
        self.where = nn.Parameter(0.02 * torch.randn(FRAMES, width, places, places))
        self.time = nn.Sequential(nn.Linear(32, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU())
        self.blocks = nn.ModuleList(Block(width) for _ in range(depth))
        self.leave = nn.ConvTranspose2d(width, 1, PATCH, PATCH)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        angles = t[:, None] * 1.6 ** torch.arange(16, device=x.device)
        time = self.time(torch.cat([angles.sin(), angles.cos()], 1).to(x))
        h = self.enter(x.transpose(1, 2).flatten(0, 1)).unflatten(0, (len(x), FRAMES)) + self.where
        for block in self.blocks:
            h = block(h, time)
        return self.leave(h.flatten(0, 1)).unflatten(0, (len(x), FRAMES)).transpose(1, 2)
