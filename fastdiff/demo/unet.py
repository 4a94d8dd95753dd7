"""A small class-conditional U-Net (Ronneberger et al. 2015; Dhariwal & Nichol 2021) on fastdiff's own ops."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from ..nn.group_norm import GroupNorm
from ..ops import attention

GROUPS = 8


def timestep_embedding(t: Tensor, dim: int) -> Tensor:
    """Map t [B] to sines and cosines [B, dim] with periods from 2 pi to 20000 pi (Ho et al. 2020)."""
    frequencies = torch.exp(-math.log(10_000) / (dim // 2) * torch.arange(dim // 2, device=t.device))
    angles = t[:, None].float() * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=1)


def zero(layer: nn.Module) -> nn.Module:
    """Zero the weights, so that the residual branch that ends in this layer starts as the identity."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


class ResBlock(nn.Module):
    """Residual block with AdaGN (Dhariwal & Nichol 2021, section 3.1): the embedding modulates the second norm."""

    def __init__(self, channels_in: int, channels_out: int, embedding: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = GroupNorm(GROUPS, channels_in, activation="silu")
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, padding=1)
        self.modulation = nn.Linear(embedding, 2 * channels_out)
        self.norm2 = GroupNorm(GROUPS, channels_out, activation="silu")
        self.dropout = nn.Dropout(dropout)
        self.conv2 = zero(nn.Conv2d(channels_out, channels_out, 3, padding=1))
        self.skip = nn.Identity() if channels_in == channels_out else nn.Conv2d(channels_in, channels_out, 1)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        scale, shift = self.modulation(emb).chunk(2, dim=1)
        h = self.conv1(self.norm1(x))
        h = self.norm2(h, scale=scale, shift=shift)
        return self.skip(x) + self.conv2(self.dropout(h))


class SelfAttention(nn.Module):
    """Residual multi-head self-attention over the pixels (Vaswani et al. 2017, eq. 1)."""

    def __init__(self, channels: int, head_dim: int = 32) -> None:
        super().__init__()
        self.heads = channels // head_dim
        self.norm = GroupNorm(GROUPS, channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = zero(nn.Linear(channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.norm(x).flatten(2).transpose(1, 2)  # [B, N, C]
        q, k, v = self.qkv(tokens).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # [B, H, N, D] each
        h = self.out(attention(q, k, v).transpose(1, 2).flatten(2))
        return x + h.transpose(1, 2).reshape(x.shape)


class Stage(nn.Module):
    """A residual block and, where asked, attention after it."""

    def __init__(self, channels_in: int, channels_out: int, embedding: int, dropout: float, attends: bool) -> None:
        super().__init__()
        self.block = ResBlock(channels_in, channels_out, embedding, dropout)
        self.attention = SelfAttention(channels_out) if attends else nn.Identity()

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        return self.attention(self.block(x, emb))


class UNet(nn.Module):
    """Predict v [B, 1, 8, 8] from x [B, 1, 8, 8], t [B] in [0, 999] and labels y [B].

    Two resolutions, 8x8 and 4x4, with attention at the lower. The last label (`num_classes`) means "no label";
    y=None is the same.
    """

    def __init__(
        self, width: int = 64, depth: int = 2, embedding: int = 128, num_classes: int = 10, dropout: float = 0.1
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.width = width
        self.time = nn.Sequential(nn.Linear(width, embedding), nn.SiLU(), nn.Linear(embedding, embedding))
        self.label = nn.Embedding(num_classes + 1, embedding)

        def stages(count: int, channels_in: int, attends: bool) -> nn.ModuleList:
            return nn.ModuleList(Stage(channels_in, width, embedding, dropout, attends) for _ in range(count))

        self.conv_in = nn.Conv2d(1, width, 3, padding=1)
        self.down_8 = stages(depth, width, attends=False)
        self.shrink = nn.Conv2d(width, width, 3, stride=2, padding=1)
        self.down_4 = stages(depth, width, attends=True)
        self.middle = stages(1, width, attends=True)
        self.up_4 = stages(depth, 2 * width, attends=True)
        self.grow = nn.Conv2d(width, width, 3, padding=1)
        self.up_8 = stages(depth, 2 * width, attends=False)
        self.norm_out = GroupNorm(GROUPS, width, activation="silu")
        self.conv_out = zero(nn.Conv2d(width, 1, 3, padding=1))

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        emb = self._embed(t, y)
        h, skips = self.conv_in(x), []
        for stage in self.down_8:
            skips.append(h := stage(h, emb))
        h = self.shrink(h)
        for stage in self.down_4:
            skips.append(h := stage(h, emb))
        for stage in self.middle:
            h = stage(h, emb)
        for stage in self.up_4:
            h = stage(torch.cat([h, skips.pop()], dim=1), emb)
        h = self.grow(interpolate(h, scale_factor=2.0, mode="nearest"))
        for stage in self.up_8:
            h = stage(torch.cat([h, skips.pop()], dim=1), emb)
        return self.conv_out(self.norm_out(h))

    def _embed(self, t: Tensor, y: Tensor | None) -> Tensor:
        """Join time and label into one vector [B, embedding], already activated for the blocks' linear layers."""
        if y is None:
            y = torch.full(t.shape, self.num_classes, device=t.device)
        emb = self.time(timestep_embedding(t, self.width)) + self.label(y)
        return nn.functional.silu(emb)
