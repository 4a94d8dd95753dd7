"""A text-conditioned latent U-Net as Rombach et al. 2022 build it, in plain torch: what the loop is timed with."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

GROUPS = 32


class ResBlock(nn.Module):
    def __init__(self, channels: int, out_channels: int, embedding: int) -> None:
        super().__init__()
        self.in_layers = nn.Sequential(
            nn.GroupNorm(GROUPS, channels), nn.SiLU(), nn.Conv2d(channels, out_channels, 3, padding=1)
        )
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(embedding, out_channels))
        self.out_layers = nn.Sequential(
            nn.GroupNorm(GROUPS, out_channels), nn.SiLU(), nn.Conv2d(out_channels, out_channels, 3, padding=1)
        )
        same = channels == out_channels
        self.skip_connection = nn.Identity() if same else nn.Conv2d(channels, out_channels, 1)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        h = self.in_layers(x) + self.emb_layers(emb)[:, :, None, None]
        return self.skip_connection(x) + self.out_layers(h)


class CrossAttention(nn.Module):
    """With the names and the call of Rombach et al.'s own, by which fastdiff.accelerate knows it."""

    def __init__(self, channels: int, context: int, heads: int) -> None:
        super().__init__()
        self.heads, self.scale = heads, (channels // heads) ** -0.5
        self.to_q = nn.Linear(channels, channels, bias=False)
        self.to_k = nn.Linear(context, channels, bias=False)
        self.to_v = nn.Linear(context, channels, bias=False)
        self.to_out = nn.Sequential(nn.Linear(channels, channels), nn.Dropout(0.0))

    def forward(self, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        context = x if context is None else context
        q, k, v = (
            t.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for t in (self.to_q(x), self.to_k(context), self.to_v(context))
        )
        return self.to_out(F.scaled_dot_product_attention(q, k, v, mask, scale=self.scale).transpose(1, 2).flatten(2))


class GEGLU(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.proj = nn.Linear(channels, 8 * channels)

    def forward(self, x: Tensor) -> Tensor:
        x, gate = self.proj(x).chunk(2, dim=-1)
        return x * F.gelu(gate)


class SpatialTransformer(nn.Module):
    def __init__(self, channels: int, context: int, heads: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(GROUPS, channels, eps=1e-6)
        self.proj_in, self.proj_out = nn.Conv2d(channels, channels, 1), nn.Conv2d(channels, channels, 1)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(channels) for _ in range(3))
        self.attn1 = CrossAttention(channels, channels, heads)
        self.attn2 = CrossAttention(channels, context, heads)
        self.ff = nn.Sequential(GEGLU(channels), nn.Linear(4 * channels, channels))

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        h = self.proj_in(self.norm(x))
        sequence = h.flatten(2).transpose(1, 2)
        sequence = sequence + self.attn1(self.norm1(sequence))
        sequence = sequence + self.attn2(self.norm2(sequence), context)
        sequence = sequence + self.ff(self.norm3(sequence))
        return x + self.proj_out(sequence.transpose(1, 2).unflatten(2, h.shape[2:]))


class Level(nn.Module):
    """A residual block and, where asked for, a transformer."""

    def __init__(self, channels: int, out_channels: int, embedding: int, context: int, heads: int) -> None:
        super().__init__()
        self.block = ResBlock(channels, out_channels, embedding)
        self.attention = SpatialTransformer(out_channels, context, heads) if heads else None

    def forward(self, x: Tensor, emb: Tensor, context: Tensor) -> Tensor:
        x = self.block(x, emb)
        return x if self.attention is None else self.attention(x, context)


class UNet(nn.Module):
    """channels: of the first level. multipliers: of each level; all but the last have transformers. blocks: a level."""

    def __init__(
        self,
        channels: int = 320,
        multipliers: tuple[int, ...] = (1, 2, 4, 4),
        blocks: int = 2,
        context: int = 768,
        heads: int = 8,
        latent: int = 4,
    ) -> None:
        super().__init__()
        self.channels, embedding, last = channels, 4 * channels, len(multipliers) - 1
        self.time_embed = nn.Sequential(nn.Linear(channels, embedding), nn.SiLU(), nn.Linear(embedding, embedding))
        self.conv_in = nn.Conv2d(latent, channels, 3, padding=1)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        width, skips = channels, [channels]
        for level, multiplier in enumerate(multipliers):
            for _ in range(blocks):
                self.down.append(Level(width, channels * multiplier, embedding, context, heads if level < last else 0))
                width = channels * multiplier
                skips.append(width)
            if level < last:
                self.down.append(nn.Conv2d(width, width, 3, stride=2, padding=1))
                skips.append(width)
        self.middle = Level(width, width, embedding, context, heads)
        self.middle_out = ResBlock(width, width, embedding)
        for level, multiplier in reversed(list(enumerate(multipliers))):
            for _ in range(blocks + 1):
                out = channels * multiplier
                self.up.append(Level(width + skips.pop(), out, embedding, context, heads if level < last else 0))
                width = out
            if level:
                self.up.append(nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(width, width, 3, padding=1)))
        self.out = nn.Sequential(nn.GroupNorm(GROUPS, width), nn.SiLU(), nn.Conv2d(width, latent, 3, padding=1))

    def forward(self, x: Tensor, t: Tensor, context: Tensor) -> Tensor:
        """x [B, latent, h, w], t [B] the training index, context [B, tokens, size] -> noise [B, latent, h, w]."""
        half = self.channels // 2
        frequencies = torch.exp(-math.log(10_000) / half * torch.arange(half, device=x.device))
        angles = t.float()[:, None] * frequencies
        emb = self.time_embed(torch.cat([angles.cos(), angles.sin()], dim=1).to(x.dtype))
        h = self.conv_in(x)
        kept = [h]
        for layer in self.down:
            h = layer(h, emb, context) if isinstance(layer, Level) else layer(h)
            kept.append(h)
        h = self.middle_out(self.middle(h, emb, context), emb)
        for layer in self.up:
            h = layer(torch.cat([h, kept.pop()], dim=1), emb, context) if isinstance(layer, Level) else layer(h)
        return self.out(h)
