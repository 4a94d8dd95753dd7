"""Blocks with the names, parts and calls of guided-diffusion's and LDM's, which fastdiff.accelerate knows them by."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class GroupNorm32(nn.GroupNorm):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.float()).type(x.dtype)


class ResBlock(nn.Module):
    """channels -> out_channels; up: twice the size. The embedding is a bias, or scale and shift."""

    def __init__(self, channels: int, out_channels: int, modulated: bool = False, up: bool = False) -> None:
        super().__init__()
        self.channels, self.out_channels, self.emb_channels, self.dropout = channels, out_channels, 20, 0.0
        self.use_conv, self.use_checkpoint, self.use_scale_shift_norm, self.updown = False, False, modulated, up
        self.in_layers = nn.Sequential(
            GroupNorm32(8, channels), nn.SiLU(), nn.Conv2d(channels, out_channels, 3, padding=1)
        )
        self.h_upd = self.x_upd = nn.Upsample(scale_factor=2) if up else nn.Identity()
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(20, out_channels * (1 + modulated)))
        self.out_layers = nn.Sequential(
            GroupNorm32(8, out_channels),
            nn.SiLU(),
            nn.Dropout(0.0),
            nn.Conv2d(out_channels, out_channels, 3, padding=1),
        )
        same = channels == out_channels
        self.skip_connection = nn.Identity() if same else nn.Conv2d(channels, out_channels, 1)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        return self._forward(x, emb)

    def _forward(self, x: Tensor, emb: Tensor) -> Tensor:
        norm, act, conv = self.in_layers
        h = conv(self.h_upd(act(norm(x))))
        emb = self.emb_layers(emb)[:, :, None, None]
        norm, *rest = self.out_layers
        if self.use_scale_shift_norm:
            scale, shift = emb.chunk(2, dim=1)
            h = norm(h) * (1 + scale) + shift
        else:
            h = norm(h + emb)
        for layer in rest:
            h = layer(h)
        return self.skip_connection(self.x_upd(x)) + h


class CrossAttention(nn.Module):
    def __init__(self, size: int, context: int, heads: int, head_size: int) -> None:
        super().__init__()
        self.heads, self.scale = heads, head_size**-0.5
        self.to_q = nn.Linear(size, heads * head_size, bias=False)
        self.to_k = nn.Linear(context, heads * head_size, bias=False)
        self.to_v = nn.Linear(context, heads * head_size, bias=False)
        self.to_out = nn.Sequential(nn.Linear(heads * head_size, size), nn.Dropout(0.0))

    def forward(self, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        context = x if context is None else context
        q, k, v = (
            t.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for t in (self.to_q(x), self.to_k(context), self.to_v(context))
        )
        logits = q @ k.mT * self.scale
        if mask is not None:
            logits = logits.masked_fill(~mask[:, None, None, :], float("-inf"))
        return self.to_out((logits.softmax(-1) @ v).transpose(1, 2).flatten(2))


class QKVAttention(nn.Module):
    def __init__(self, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads

    def split(self, qkv: Tensor) -> tuple[Tensor, ...]:
        return tuple(t.unflatten(1, (self.n_heads, -1)) for t in qkv.chunk(3, dim=1))

    def forward(self, qkv: Tensor) -> Tensor:
        q, k, v = self.split(qkv)
        weights = torch.einsum("bhdn,bhdm->bhnm", q, k).mul(q.shape[2] ** -0.5).softmax(-1)
        return torch.einsum("bhnm,bhdm->bhdn", weights, v).flatten(1, 2)


class QKVAttentionLegacy(QKVAttention):
    def split(self, qkv: Tensor) -> tuple[Tensor, ...]:
        return qkv.unflatten(1, (self.n_heads, -1)).chunk(3, dim=2)

    def forward(self, qkv: Tensor) -> Tensor:
        return super().forward(qkv)


def nonlinearity(x: Tensor) -> Tensor:
    return x * torch.sigmoid(x)


class ResnetBlock(nn.Module):
    def __init__(self, in_channels: int, out_channels: int, embedding: int) -> None:
        super().__init__()
        self.in_channels, self.out_channels, self.use_conv_shortcut = in_channels, out_channels, False
        self.norm1, self.norm2 = nn.GroupNorm(4, in_channels, eps=1e-6), nn.GroupNorm(4, out_channels, eps=1e-6)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.dropout = nn.Dropout(0.0)
        if embedding:
            self.temb_proj = nn.Linear(embedding, out_channels)
        if in_channels != out_channels:
            self.nin_shortcut = nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor, temb: Tensor | None) -> Tensor:
        h = self.conv1(nonlinearity(self.norm1(x)))
        if temb is not None:
            h = h + self.temb_proj(nonlinearity(temb))[:, :, None, None]
        h = self.conv2(self.dropout(nonlinearity(self.norm2(h))))
        return (self.nin_shortcut(x) if self.in_channels != self.out_channels else x) + h


class AttnBlock(nn.Module):
    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.in_channels, self.norm = in_channels, nn.GroupNorm(4, in_channels, eps=1e-6)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(in_channels, in_channels, 1) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        q, k, v = (layer(h).flatten(2) for layer in (self.q, self.k, self.v))
        weights = torch.softmax(q.mT @ k * self.in_channels**-0.5, dim=-1)
        return x + self.proj_out((v @ weights.mT).unflatten(2, x.shape[2:]))


class LDM(nn.Module):
    """Every block above but the autoencoder's."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([ResBlock(32, 32), ResBlock(32, 64, True), ResBlock(64, 32, up=True)])
        self.attentions = nn.ModuleList([CrossAttention(32, 32, 4, 10), CrossAttention(32, 24, 2, 40)])
        self.qkv = nn.ModuleList([nn.Conv1d(32, 96, 1), QKVAttention(4), nn.Conv1d(32, 96, 1), QKVAttentionLegacy(2)])
        self.norm = nn.GroupNorm(4, 32)

    def forward(self, x: Tensor, emb: Tensor, context: Tensor, mask: Tensor | None = None) -> Tensor:
        for block in self.blocks:
            x = block(x, emb)
        x = self.norm(x).flatten(2)
        for layer in self.qkv:
            x = layer(x)
        tokens = x.transpose(1, 2)
        tokens = tokens + self.attentions[0](tokens)
        return tokens + self.attentions[1](tokens, context, mask)


class Autoencoder(nn.Module):
    """The blocks of the autoencoder; its attention has the published width of 512."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([ResnetBlock(8, 8, 20), ResnetBlock(8, 512, 20), AttnBlock(512)])
        self.last = ResnetBlock(512, 8, 0)

    def forward(self, x: Tensor, temb: Tensor) -> Tensor:
        first, second, attention = self.blocks
        return self.last(attention(second(first(x, temb), temb)), None)
