"""A small transformer that fills in masked tokens (Nie et al. 2025, LLaDA), on fastdiff's own attention."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from ..ops import attention


def rotated(x: Tensor, angles: Tensor) -> Tensor:
    """Rotary positions (Su et al. 2021): x [B, H, N, D] turned in D / 2 planes by angles [N, D / 2]."""
    first, second = x.chunk(2, dim=3)
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    return torch.cat([first * cos - second * sin, first * sin + second * cos], dim=3)


def explicit(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The same attention by its formula. For so few tokens its gradient is faster on a CPU."""
    scores = q * q.shape[3] ** -0.5 @ k.transpose(2, 3)
    return scores.softmax(3) @ v


class Neighbours(nn.Module):
    """y_i = sum_k w_k x_{i + offset_k} in each channel of x [B, N, width], zeros beyond the ends.

    Near the identity at first. It shows a young network the tokens beside each, which attention has to find.
    """

    def __init__(self, width: int, offsets: Sequence[int]) -> None:
        super().__init__()
        self.offsets, self.reach = offsets, max(map(abs, offsets))
        self.weight = nn.Parameter(0.3 * torch.randn(len(offsets), width))
        with torch.no_grad():
            self.weight[list(offsets).index(0)] += 1

    def forward(self, x: Tensor) -> Tensor:
        count, padded = x.shape[1], pad(x, (0, 0, self.reach, self.reach))
        shifted = (padded[:, self.reach + i : self.reach + i + count] for i in self.offsets)
        return sum((w * part for w, part in zip(self.weight, shifted, strict=True)), torch.zeros(()))


class Block(nn.Module):
    """Attention in both directions and an MLP, each after a norm; tokens [B, N, width]."""

    def __init__(self, width: int, heads: int, hidden: int, offsets: Sequence[int]) -> None:
        super().__init__()
        self.heads, self.neighbours = heads, Neighbours(width, offsets)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.mlp = nn.Sequential(
            nn.Linear(width, hidden, bias=False), nn.GELU(), nn.Dropout(0.0), nn.Linear(hidden, width, bias=False)
        )

    def forward(self, h: Tensor, angles: Tensor) -> Tensor:
        parts = self.qkv(self.neighbours(self.norm1(h))).unflatten(2, (3, self.heads, -1))
        q, k, v = parts.permute(2, 0, 3, 1, 4)  # [B, H, N, D] each
        attend = explicit if self.training else attention
        joined = attend(rotated(q, angles), rotated(k, angles), v).transpose(1, 2).flatten(2)
        h = h + self.out(joined)
        return h + self.mlp(self.norm2(h))


class MaskedTransformer(nn.Module):
    """Logits [B, N, vocabulary] of the tokens x [B, N] with labels y [B], N <= length; it needs no time.

    The last token (`vocabulary - 1`) is the mask, whose logits are -inf. The last label (`num_classes`) means "no
    label"; y=None is the same. offsets: which tokens are neighbours, 0 among them. Fewer tokens than `length` are read
    as the beginning of what is masked behind them.
    """

    def __init__(
        self,
        vocabulary: int,
        length: int,
        width: int,
        depth: int,
        heads: int,
        hidden: int,
        num_classes: int,
        offsets: Sequence[int],
    ) -> None:
        super().__init__()
        self.length, self.mask_id, self.num_classes = length, vocabulary - 1, num_classes
        self.tokens_in = nn.Embedding(vocabulary, width)
        self.position = nn.Parameter(0.02 * torch.randn(length, width))
        self.label = nn.Embedding(num_classes + 1, width)
        for table in (self.tokens_in, self.label):
            nn.init.normal_(table.weight, std=0.02)
        self.blocks = nn.ModuleList(Block(width, heads, hidden, offsets) for _ in range(depth))
        for name, weight in self.blocks.named_parameters():
            if name.endswith(("out.weight", "mlp.3.weight")):  # the ends of residual branches
                nn.init.normal_(weight, std=0.02 / (2 * depth) ** 0.5)
        self.norm_out = nn.LayerNorm(width)
        planes = width // heads // 2
        frequencies = 10_000.0 ** (-torch.arange(planes) / planes)
        self.register_buffer("angles", torch.arange(length)[:, None] * frequencies, persistent=False)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        return pad(self.logits(self.states(x, y)), (0, 1), value=float("-inf"))

    def logits(self, states: Tensor) -> Tensor:
        """[..., vocabulary - 1] of states [..., width]: without the mask's."""
        return states @ self.tokens_in.weight[:-1].T

    def states(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """What the logits are linear in, [B, N, width]."""
        if y is None:
            y = torch.full((len(x),), self.num_classes, device=x.device)
        count = x.shape[1]
        h = self.tokens_in(pad(x, (0, self.length - count), value=self.mask_id))
        h = h + self.position + self.label(y)[:, None]
        for block in self.blocks:
            h = block(h, self.angles)
        return self.norm_out(h[:, :count])
