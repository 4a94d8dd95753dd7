"""What token_stats' kernels share: a row's final logits, its temperature and what top_k and top_p leave of it."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def inverse_temperature(temperature, sample):
    """float64; 0 where the sample is the argmax. The bounds are those of `reference_tokens`."""
    inverse = tl.full((), 0.0, tl.float64)
    if temperature is not None:
        t = tl.load(temperature + sample)
        inverse = tl.where(t > 0, 1.0 / tl.minimum(tl.maximum(t, 5.877471754111438e-39), 1e30), 0.0)
    return inverse


@triton.jit
def final_logits(
    logits, uncond, guidance, current, shift, row, sample, at, end, E0, E1, E2, E3
):  # fmt: skip
    """z of tokens `at` in float32; -inf from `end` on. logits and uncond point to the row."""
    there = at < end
    z = tl.load(logits + at, mask=there, other=-float("inf")).to(tl.float32)
    if uncond is not None:
        u = tl.load(uncond + at, mask=there, other=-float("inf")).to(tl.float32)
        g = tl.load(guidance + sample).to(tl.float32)
        forbidden = (z == -float("inf")) | (u == -float("inf"))
        z = tl.where(forbidden, -float("inf"), u + g * (z - u))
    if shift is not None:
        z = tl.where(at == tl.load(current + row), z + tl.load(shift + sample).to(tl.float32), z)
    excluded = (at == E0) | (at == E1) | (at == E2) | (at == E3)
    return tl.where(excluded, -float("inf"), z)


@triton.jit
def below(z, largest):
    """z - largest, of which NaN stays and -inf becomes a number that may be multiplied by 0."""
    d = z - largest
    return tl.where(d < -3e38, -3e38, d)


@triton.jit
def finite_or_zero(largest):
    return tl.where(largest == -float("inf"), 0.0, largest)


@triton.jit
def key_of(z):
    """uint32 in the order of the logits."""
    bits = (z + 0.0).to(tl.uint32, bitcast=True)  # -0 equals 0
    return tl.where(bits >> 31 != 0, bits ^ 0xFFFFFFFF, bits | 0x80000000)


@triton.jit
def logit_of(key):
    return tl.where(key >> 31 != 0, key & 0x7FFFFFFF, key ^ 0xFFFFFFFF).to(tl.float32, bitcast=True)


@triton.jit
def is_kept(cut, row, z, at):
    """Whether top_k and top_p leave a token: it is above the cut, or at it and not behind the last that is kept."""
    least = tl.load(cut + 2 * row).to(tl.uint32)
    key = key_of(z)
    return (key > least) | ((key == least) & (at <= tl.load(cut + 2 * row + 1)))
