"""Small U-Nets (Ronneberger et al. 2015; Dhariwal & Nichol 2021) of images and series on fastdiff's own ops."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from ..nn.group_norm import GroupNorm
from ..ops import attention
from .patches import fold, unfold

GROUPS = 8
CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d}  # by the number of axes


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

    def __init__(self, channels_in: int, channels_out: int, embedding: int, dropout: float, axes: int = 2) -> None:
        super().__init__()
        conv = CONVOLUTIONS[axes]
        self.norm1 = GroupNorm(GROUPS, channels_in, activation="silu")
        self.conv1 = conv(channels_in, channels_out, 3, padding=1)
        self.modulation = nn.Linear(embedding, 2 * channels_out)
        self.norm2 = GroupNorm(GROUPS, channels_out, activation="silu")
        self.dropout = nn.Dropout(dropout)
        self.conv2 = zero(conv(channels_out, channels_out, 3, padding=1))
        self.skip = nn.Identity() if channels_in == channels_out else conv(channels_in, channels_out, 1)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        scale, shift = self.modulation(emb).chunk(2, dim=1)
        h = self.conv1(self.norm1(x))
        h = self.norm2(h, scale=scale, shift=shift)
        return self.skip(x) + self.conv2(self.dropout(h))


class SelfAttention(nn.Module):
    """Residual multi-head self-attention over the pixels (Vaswani et al. 2017, eq. 1)."""

    def __init__(self, channels: int, head_dim: int) -> None:
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
    """A residual block and, where a head's size is given, attention after it."""

    def __init__(
        self, channels_in: int, channels_out: int, embedding: int, dropout: float, head_dim: int | None, axes: int
    ) -> None:
        super().__init__()
        self.block = ResBlock(channels_in, channels_out, embedding, dropout, axes)
        self.attention = nn.Identity() if head_dim is None else SelfAttention(channels_out, head_dim)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        return self.attention(self.block(x, emb))


class UNet(nn.Module):
    """Predict [B, channels, ...] from x of that shape, t [B] in about [0, 999] and labels y [B].

    axes: 1 for series, 2 for images. levels: the number of resolutions, each half of the one before, with `depth`
    blocks down, as many up, and attention at the lowest. patch: the side of the blocks of pixels it works on.
    The last label (`num_classes`) means "no label"; y=None is the same. With num_classes=0 there are no labels.
    """

    def __init__(
        self,
        width: int = 64,
        depth: int = 2,
        embedding: int = 128,
        num_classes: int = 10,
        dropout: float = 0.1,
        *,
        channels: int = 1,
        levels: int = 2,
        patch: int = 1,
        axes: int = 2,
        head_dim: int = 32,
    ) -> None:
        super().__init__()
        self.num_classes, self.width, self.patch = num_classes, width, patch
        self.time = nn.Sequential(nn.Linear(width, embedding), nn.SiLU(), nn.Linear(embedding, embedding))
        self.label = nn.Embedding(num_classes + 1, embedding) if num_classes else None
        conv, pixels = CONVOLUTIONS[axes], channels * patch**axes

        def stages(count: int, channels_in: int, attends: bool) -> nn.ModuleList:
            options = (embedding, dropout, head_dim if attends else None, axes)
            return nn.ModuleList(Stage(channels_in, width, *options) for _ in range(count))

        # In the order of use, so that a seed gives the same weights whatever their names.
        self.conv_in = conv(pixels, width, 3, padding=1)
        self.down, self.shrink = nn.ModuleList(), nn.ModuleList()
        for level in range(levels):
            self.down.append(stages(depth, width, attends=level == levels - 1))
            if level < levels - 1:
                self.shrink.append(conv(width, width, 3, stride=2, padding=1))
        self.middle = stages(1, width, attends=True)
        self.up, self.grow = nn.ModuleList(), nn.ModuleList()
        for level in range(levels):
            self.up.append(stages(depth, 2 * width, attends=level == 0))
            if level < levels - 1:
                self.grow.append(conv(width, width, 3, padding=1))
        self.norm_out = GroupNorm(GROUPS, width, activation="silu")
        self.conv_out = zero(conv(width, pixels, 3, padding=1))

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        emb = self._embed(t, y)
        h, skips = self.conv_in(fold(x, self.patch)), []
        for level, stages in enumerate(self.down):
            h = self.shrink[level - 1](h) if level else h
            for stage in stages.children():
                skips.append(h := stage(h, emb))
        for stage in self.middle:
            h = stage(h, emb)
        for level, stages in enumerate(self.up):
            h = self.grow[level - 1](interpolate(h, size=skips[-1].shape[2:], mode="nearest")) if level else h
            for stage in stages.children():
                h = stage(torch.cat([h, skips.pop()], dim=1), emb)
        return unfold(self.conv_out(self.norm_out(h)), self.patch)

    def _embed(self, t: Tensor, y: Tensor | None) -> Tensor:
        """Join time and label into one vector [B, embedding], already activated for the blocks' linear layers."""
        emb = self.time(timestep_embedding(t, self.width))
        if self.label is not None:
            emb = emb + self.label(torch.full(t.shape, self.num_classes, device=t.device) if y is None else y)
        return nn.functional.silu(emb)
