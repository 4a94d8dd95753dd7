"""A small diffusion transformer (Peebles & Xie 2023) on fastdiff's own attention."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..ops import attention
from .patches import fold, unfold
from .unet import timestep_embedding, zero


class Block(nn.Module):
    """Attention and an MLP, both with adaLN-Zero (Peebles & Xie 2023, figure 3); tokens [B, N, width]."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.heads = heads
        self.modulation = zero(nn.Linear(width, 6 * width))
        self.norm1 = nn.LayerNorm(width, elementwise_affine=False)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width, elementwise_affine=False)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))

    def forward(self, h: Tensor, emb: Tensor) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(emb)[:, None].chunk(6, dim=2)
        h = h + gate1 * self._attend(self.norm1(h) * (1 + scale1) + shift1)
        return h + gate2 * self.mlp(self.norm2(h) * (1 + scale2) + shift2)

    def _attend(self, h: Tensor) -> Tensor:
        q, k, v = self.qkv(h).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # [B, H, N, D] each
        return self.out(attention(q, k, v).transpose(1, 2).flatten(2))


class DiT(nn.Module):
    """Predict [B, channels, size, size] from x of that shape, t [B] in [0, 1] and labels y [B].

    The last label (`num_classes`) means "no label"; y=None is the same.
    """

    def __init__(
        self, size: int, channels: int, patch: int, width: int, depth: int, heads: int, hidden: int, num_classes: int
    ) -> None:
        super().__init__()
        self.patch, self.width, self.num_classes = patch, width, num_classes
        self.tokens_in = nn.Linear(channels * patch**2, width)
        self.position = nn.Parameter(0.02 * torch.randn((size // patch) ** 2, width))
        self.time = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.label = nn.Embedding(num_classes + 1, width)
        self.blocks = nn.ModuleList(Block(width, heads, hidden) for _ in range(depth))
        self.modulation = zero(nn.Linear(width, 2 * width))
        self.norm_out = nn.LayerNorm(width, elementwise_affine=False)
        self.tokens_out = zero(nn.Linear(width, channels * patch**2))

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        if y is None:
            y = torch.full(t.shape, self.num_classes, device=t.device)
        emb = nn.functional.silu(self.time(timestep_embedding(1000 * t, self.width)) + self.label(y))
        pixels = fold(x, self.patch)
        h = self.tokens_in(pixels.flatten(2).transpose(1, 2)) + self.position
        for block in self.blocks:
            h = block(h, emb)
        shift, scale = self.modulation(emb)[:, None].chunk(2, dim=2)
        out = self.tokens_out(self.norm_out(h) * (1 + scale) + shift).transpose(1, 2)
        return unfold(out.reshape(pixels.shape), self.patch)
