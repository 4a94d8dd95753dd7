"""Counter-based normal noise in plain torch: the definition that every kernel reproduces.

Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3") with

    key     = (seed mod 2^32, seed div 2^32)
    counter = (block mod 2^32, block div 2^32, noise index, 0),   block = element div 4

gives four words r_0..r_3 for the elements 4 block .. 4 block + 3, element = index in the sample's contiguous order.
Box-Muller turns each pair (r, s) into two normals:

    u = fl32(fl32(r) 2^-32 + 2^-33),  R = sqrt(-2 ln u),  z = R cos(2 pi s 2^-32),  z' = R sin(2 pi s 2^-32)

u is rounded to float32 in every precision, so that all backends agree to the rounding of log, cos and sin.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

_WORD = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)


def _philox4x32(counter: list[Tensor], key: list[Tensor]) -> list[Tensor]:
    """Ten rounds on int64 tensors that hold 32-bit words; products wrap in int64, which keeps their bits."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        p0, p1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = ((p1 >> 32) & _WORD) ^ c1 ^ k0, p1 & _WORD, ((p0 >> 32) & _WORD) ^ c3 ^ k1, p0 & _WORD
        k0, k1 = (k0 + _WEYL[0]) & _WORD, (k1 + _WEYL[1]) & _WORD
    return [c0, c1, c2, c3]


def _box_muller(r: Tensor, s: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    u = (r.to(torch.float32) * 2.0**-32 + 2.0**-33).to(dtype)
    radius = torch.sqrt(-2.0 * torch.log(u))
    angle = s.to(torch.float64) * (2.0 * math.pi * 2.0**-32)
    return radius * torch.cos(angle).to(dtype), radius * torch.sin(angle).to(dtype)


def normal(seeds: Tensor, index: int | Tensor, count: int, dtype: torch.dtype) -> Tensor:
    """`count` normals for each seed.

    seeds [B] int64; index: which noise of the run, in [0, 2^32), for all or [B] int64. Returns [B, count] in `dtype`
    (float32 or float64).
    """
    block = torch.arange((count + 3) // 4, dtype=torch.int64, device=seeds.device).expand(len(seeds), -1)
    noise = torch.zeros_like(block) + (index[:, None] if isinstance(index, Tensor) else index)
    counter = [block & _WORD, block >> 32, noise, torch.zeros_like(block)]
    key = [(seeds & _WORD)[:, None], ((seeds >> 32) & _WORD)[:, None]]
    r = _philox4x32(counter, key)
    pairs = [*_box_muller(r[0], r[1], dtype), *_box_muller(r[2], r[3], dtype)]
    return torch.stack(pairs, dim=-1).flatten(1)[:, :count]


def uniform(seeds: Tensor, index: int) -> Tensor:
    """[B] one number in (0, 1) for each seed, float64: the first word of the counter (index, 0, 0, 1).

    No normal noise has 1 in the last place of its counter. seeds: [B] int64. index: in [0, 2^32).
    """
    zero = torch.zeros_like(seeds)
    word = _philox4x32([zero + index, zero, zero, zero + 1], [seeds & _WORD, (seeds >> 32) & _WORD])[0]
    return (word.to(torch.float64) + 0.5) * 2.0**-32


def uniform_rows(seeds: Tensor, index: Tensor | None, positions: Tensor) -> Tensor:
    """A number in (0, 1) for each row of a sample's logits, float64, [B, ...] like positions (int64).

    Of the words r_0, r_1 of the counter (position mod 2^32, position div 2^32, index, 2) under the sample's seed it is
    (r_0 2^20 + r_1 div 2^12 + 1/2) 2^-52. seeds: [B] int64. index: [B] int64 in [0, 2^32), 0 where None.
    """
    shape = (-1, *[1] * (positions.ndim - 1))
    zero, key = torch.zeros_like(positions), seeds.view(shape)
    noise = zero if index is None else zero + index.view(shape)
    counter = [positions & _WORD, (positions >> 32) & _WORD, noise & _WORD, zero + 2]
    high, low, *_ = _philox4x32(counter, [key & _WORD, (key >> 32) & _WORD])
    return ((high << 20 | low >> 12).to(torch.float64) + 0.5) * 2.0**-52
