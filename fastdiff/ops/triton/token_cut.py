"""Where top_k and top_p cut a row, found digit by digit of the logits' bits; the row stays in the cache meanwhile."""

from __future__ import annotations

import triton
import triton.language as tl

from .token_logits import below, final_logits, finite_or_zero, inverse_temperature, key_of, logit_of

BLOCK = 1024


@triton.jit
def _measure(z, key, at, vocabulary, largest, inverse, least, MASS: tl.constexpr):
    """What a token counts for: its weight at the temperature or one, if its key is at least `least`."""
    weight = tl.exp(below(z, largest) * inverse) if MASS else tl.where(at < vocabulary, 1.0, 0.0)
    return tl.where(key >= least, weight, 0.0)


@triton.jit
def _reach(
    logits, uncond, guidance, current, shift, row, sample, vocabulary, E0, E1, E2, E3, largest, inverse, least, bound,
    MASS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The largest key from which on tokens count for `bound`, and what those above it do."""
    digit = tl.arange(0, 16)
    found = tl.full((), 0, tl.uint32)
    above = tl.full((), 0.0, tl.float64)
    unit = tl.full((), 1 << 28, tl.uint32)  # of the digit that is looked for
    for _ in range(8):
        threshold = found + digit.to(tl.uint32) * unit
        total = tl.zeros([16], tl.float64)
        for start in range(0, vocabulary, BLOCK):
            at = start + tl.arange(0, BLOCK)
            z = final_logits(logits, uncond, guidance, current, shift, row, sample, at, vocabulary, E0, E1, E2, E3)
            key = key_of(z)
            value = _measure(z, key, at, vocabulary, largest, inverse, least, MASS)
            total += tl.sum(tl.where(key[:, None] >= threshold[None, :], value[:, None], 0.0), 0).to(tl.float64)
        last = tl.max(tl.where(total >= bound, digit, 0), 0)
        above = tl.where(last < 15, tl.sum(tl.where(digit == last + 1, total, 0.0), 0), above)
        found += last.to(tl.uint32) * unit
        unit = unit >> 4
    return found, above


@triton.jit(do_not_specialize=["length", "top_k"])
def token_cut_kernel(
    logits, uncond, current, temperature, guidance, shift, cut, length, vocabulary, top_k, top_p,
    stride_b, stride_l, uncond_b, uncond_l,
    E0: tl.constexpr, E1: tl.constexpr, E2: tl.constexpr, E3: tl.constexpr,
    COUNT: tl.constexpr, MASS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """A row's cut [2] int64: the least key that is kept, and the last token of that key."""
    row = tl.program_id(0).to(tl.int64)
    sample = row // length
    logits += sample * stride_b + row % length * stride_l
    if uncond is not None:
        uncond += sample * uncond_b + row % length * uncond_l
    exact_inverse = inverse_temperature(temperature, sample)
    inverse = exact_inverse.to(tl.float32)
    most = tl.full([BLOCK], -float("inf"), tl.float32)
    for start in range(0, vocabulary, BLOCK):
        at = start + tl.arange(0, BLOCK)
        z = final_logits(logits, uncond, guidance, current, shift, row, sample, at, vocabulary, E0, E1, E2, E3)
        most = tl.maximum(most, z)
    largest = finite_or_zero(tl.max(most, 0))
    least = tl.full((), 0, tl.uint32)
    last = tl.full((), vocabulary, tl.int64)
    if COUNT:
        least, _ = _reach(
            logits, uncond, guidance, current, shift, row, sample, vocabulary, E0, E1, E2, E3, largest, inverse, least,
            top_k.to(tl.float64), False, BLOCK,
        )  # fmt: skip
    if MASS:
        total = tl.full((), 0.0, tl.float64)
        for start in range(0, vocabulary, BLOCK):
            at = start + tl.arange(0, BLOCK)
            z = final_logits(logits, uncond, guidance, current, shift, row, sample, at, vocabulary, E0, E1, E2, E3)
            total += tl.sum(_measure(z, key_of(z), at, vocabulary, largest, inverse, least, True), 0).to(tl.float64)
        bound = total * tl.load(top_p)
        least, above = _reach(
            logits, uncond, guidance, current, shift, row, sample, vocabulary, E0, E1, E2, E3, largest, inverse, least,
            bound, True, BLOCK,
        )  # fmt: skip
        each = tl.maximum(tl.exp(below(logit_of(least), largest) * inverse).to(tl.float64), 1e-300)
        needed = tl.minimum(tl.maximum(tl.ceil((bound - above) / each), 1.0), tl.full((), vocabulary, tl.float64)).to(
            tl.int32
        )
        before = 0
        for start in range(0, vocabulary, BLOCK):
            at = start + tl.arange(0, BLOCK)
            z = final_logits(logits, uncond, guidance, current, shift, row, sample, at, vocabulary, E0, E1, E2, E3)
            equal = ((key_of(z) == least) & (at < vocabulary)).to(tl.int32)
            here = (equal != 0) & (before + tl.cumsum(equal, 0) == needed)
            last = tl.minimum(last, tl.min(tl.where(here, at, vocabulary), 0).to(tl.int64))
            before += tl.sum(equal, 0)
    if exact_inverse == 0:
        least = tl.full((), 0, tl.uint32)
    tl.store(cut + 2 * row, least.to(tl.int64))
    tl.store(cut + 2 * row + 1, last)
