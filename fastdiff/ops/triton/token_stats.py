"""token_stats in Triton, for NVIDIA and AMD: two launches, no atomics. The first leaves each part of a row's largest
logits and sums, the second adds up the parts, draws, and reads again the one part that the sample is in. With top_k or
top_p a launch before them finds where they cut the row.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..call_spec import CallSpec, Implementation
from . import token_cut
from .layout import on_device
from .token_logits import below, final_logits, finite_or_zero, inverse_temperature, is_kept

PART = 4096  # tokens of a program
WARPS = 8
MAX_EXCLUDED = 4
SIZES = ["rows", "length", "parts"]


@triton.jit(do_not_specialize=SIZES)
def token_parts_kernel(
    logits, uncond, current, temperature, guidance, shift, cut, numbers, tokens, length, vocabulary, parts,
    stride_b, stride_l, uncond_b, uncond_l,
    E0: tl.constexpr, E1: tl.constexpr, E2: tl.constexpr, E3: tl.constexpr, PART: tl.constexpr,
):  # fmt: skip
    """Of one part: its two largest logits, the sums of w = e^(z - m) and w (z - m), the same at the temperature."""
    pid = tl.program_id(0).to(tl.int64)
    row = pid // parts
    sample = row // length
    logits += sample * stride_b + row % length * stride_l
    if uncond is not None:
        uncond += sample * uncond_b + row % length * uncond_l
    at = (pid % parts).to(tl.int32) * PART + tl.arange(0, PART)
    z = final_logits(logits, uncond, guidance, current, shift, row, sample, at, vocabulary, E0, E1, E2, E3)
    largest = tl.max(z, 0)
    argmax = tl.minimum(tl.min(tl.where(z == largest, at, vocabulary), 0), vocabulary - 1)
    second = tl.max(tl.where(at == argmax, -float("inf"), z), 0)
    d = below(z, finite_or_zero(largest))
    weight = tl.exp(d)
    numbers += 6 * pid
    tl.store(numbers, largest)
    tl.store(numbers + 1, second)
    tl.store(numbers + 2, tl.sum(weight, 0))
    tl.store(numbers + 3, tl.sum(weight * d, 0))
    inverse = inverse_temperature(temperature, sample).to(tl.float32)
    if (inverse > 0) & (inverse != 1):
        weight = tl.exp(d * inverse)
    if cut is not None:
        weight = tl.where(is_kept(cut, row, z, at), weight, 0.0)
    tl.store(numbers + 4, tl.sum(weight, 0))
    tl.store(numbers + 5, tl.sum(weight * d, 0))
    tl.store(tokens + pid, argmax.to(tl.int64))


@triton.jit
def _law(largest, sum, moment, most, inverse):
    """The parts' shares in the row's sum, that sum and its first moment."""
    d = below(largest, most)
    factor = tl.exp(d.to(tl.float64) * inverse)
    share = factor * sum
    return share, tl.sum(share, 0), tl.sum(factor * (moment + d.to(tl.float64) * sum), 0)


@triton.jit
def _uniform(seed, position, index):
    """`philox.uniform_rows` of one row."""
    low = position.to(tl.uint32)
    high = (position >> 32).to(tl.uint32)
    r0, r1, _, _ = tl.philox(seed, low, high, index.to(tl.uint32), low * 0 + 2)
    bits = (r0.to(tl.uint64) << 20) | (r1 >> 12).to(tl.uint64)
    return (bits.to(tl.int64).to(tl.float64) + 0.5) * 2.220446049250313e-16  # 2^-52


@triton.jit
def _reach(weight, at, target, none):
    """The first token with which the sum of the weights exceeds the target; the last one of any weight otherwise."""
    sums = tl.cumsum(weight, 0)
    first = tl.min(tl.where(sums > target, at, none), 0)
    return tl.where(first == none, tl.max(tl.where(weight > 0, at, 0), 0), first)


@triton.jit(do_not_specialize=SIZES)
def token_rows_kernel(
    logits, uncond, current, positions, seeds, index, temperature, guidance, shift, cut, part_numbers, part_tokens,
    numbers, tokens, rows, length, vocabulary, parts, stride_b, stride_l, uncond_b, uncond_l,
    E0: tl.constexpr, E1: tl.constexpr, E2: tl.constexpr, E3: tl.constexpr, PARTS: tl.constexpr, PART: tl.constexpr,
):  # fmt: skip
    """A row's results from its parts'."""
    row = tl.program_id(0).to(tl.int64)
    sample = row // length
    logits += sample * stride_b + row % length * stride_l
    if uncond is not None:
        uncond += sample * uncond_b + row % length * uncond_l
    part = tl.arange(0, PARTS)
    there = part < parts
    own = part_numbers + 6 * (row * parts + part)
    largest = tl.load(own, mask=there, other=-float("inf"))
    most = tl.max(largest, 0)
    first = tl.min(tl.where(largest == most, part, PARTS), 0)
    second = tl.load(own + 1, mask=there, other=-float("inf"))
    second = tl.max(tl.where(part == first, second, largest), 0)
    inverse = inverse_temperature(temperature, sample)
    scale = tl.where(inverse > 0, inverse, 1.0)
    sum = tl.load(own + 2, mask=there, other=0).to(tl.float64)
    moment = tl.load(own + 3, mask=there, other=0).to(tl.float64)
    _, total, first_moment = _law(largest, sum, moment, most, 1.0)
    sum = tl.load(own + 4, mask=there, other=0).to(tl.float64)
    moment = tl.load(own + 5, mask=there, other=0).to(tl.float64)
    share, drawn_total, drawn_moment = _law(largest, sum, moment, most, scale)

    lawful = (total > 0) & (most < float("inf"))  # NaN is not
    argmax = tl.load(part_tokens + row * parts + tl.minimum(first, parts - 1))
    argmax = tl.where(lawful, argmax, 0)
    token = argmax
    if seeds is not None:
        position = row % length
        if positions is not None:
            position = tl.load(positions + row)
        draw = position * 0
        if index is not None:
            draw = tl.load(index + sample)
        u = _uniform(tl.load(seeds + sample), position, draw)
        reached = _reach(share, part, u * drawn_total, PARTS)
        before = tl.sum(tl.where(part < reached, share, 0.0), 0)
        mass = tl.maximum(tl.sum(tl.where(part == reached, share, 0.0), 0), 1e-300)
        at = reached * PART + tl.arange(0, PART)
        z = final_logits(logits, uncond, guidance, current, shift, row, sample, at, vocabulary, E0, E1, E2, E3)
        own_largest = tl.sum(tl.where(part == reached, finite_or_zero(largest), 0.0), 0)
        weight = tl.exp(below(z, own_largest) * scale.to(tl.float32))
        weight = tl.where(at < vocabulary, weight, 0.0)
        if cut is not None:
            weight = tl.where(is_kept(cut, row, z, at), weight, 0.0)
        weight = weight.to(tl.float64)
        # The part's own sum takes the place of its share, so that each token has its mass.
        target = (u * drawn_total - before) / mass * tl.sum(weight, 0)
        drawn = tl.minimum(_reach(weight, at, target, parts * PART), vocabulary - 1)
        token = tl.where((inverse > 0) & lawful, drawn.to(tl.int64), argmax)
    x = final_logits(logits, uncond, guidance, current, shift, row, sample, token, vocabulary, E0, E1, E2, E3) - most
    log_total = tl.log(total)
    log_prob = x - log_total
    current_prob = total * 0
    if current is not None:
        known = tl.load(current + row)
        inside = (known >= 0) & (known < vocabulary)
        now = final_logits(
            logits, uncond, guidance, current, shift, row, sample, tl.where(inside, known, 0), vocabulary,
            E0, E1, E2, E3,
        )  # fmt: skip
        current_prob = tl.where(inside, tl.exp((now - most).to(tl.float64)) / total, 0.0)
    margin = (1 - tl.exp((second - most).to(tl.float64))) / total
    entropy = log_total - first_moment / total
    drawn_log = tl.where(inverse > 0, x * inverse - tl.log(drawn_total), 0.0)
    drawn_entropy = tl.where(inverse > 0, tl.log(drawn_total) - inverse * (drawn_moment / drawn_total), 0.0)
    _store(numbers, 0, rows, row, log_prob, lawful)
    _store(numbers, 1, rows, row, 1 / total, lawful)
    _store(numbers, 2, rows, row, margin, lawful)
    _store(numbers, 3, rows, row, entropy, lawful)
    _store(numbers, 4, rows, row, current_prob, lawful)
    _store(numbers, 5, rows, row, drawn_log, lawful)
    _store(numbers, 6, rows, row, drawn_entropy, lawful)
    tl.store(tokens + row, argmax)
    tl.store(tokens + rows + row, token)


@triton.jit
def _store(numbers, place, rows, row, value, lawful):
    tl.store(numbers + (place * rows + row), tl.where(lawful, value, float("nan")).to(tl.float32))


KERNELS = {"cut": token_cut.token_cut_kernel, "parts": token_parts_kernel, "rows": token_rows_kernel}
INTERPRETED = not isinstance(token_parts_kernel, triton.JITFunction)


def run(
    logits: Tensor,  # [B, ..., V]
    logits_uncond: Tensor | None,
    current: Tensor | None,
    positions: Tensor | None,
    seeds: Tensor | None,
    index: Tensor | None,
    temperature: Tensor | None,
    guidance: Tensor | None,
    current_shift: Tensor | None,
    top_k: int,
    top_p: float,
    exclude: list[int] | None,
    numbers: Tensor,
    tokens: Tensor,
) -> None:
    """The contract of `reference_tokens.run_token_stats`."""
    batch, length, vocabulary = logits.shape[0], logits.shape[1:-1].numel(), logits.shape[-1]
    rows, parts = batch * length, -(-vocabulary // PART)
    shape = (batch, length, vocabulary)
    logits, uncond = _rows(logits, shape), None if logits_uncond is None else _rows(logits_uncond, shape)
    current, positions, seeds, index = (
        None if t is None else t.contiguous() for t in (current, positions, seeds, index)
    )
    temperature, guidance, current_shift = (
        None if t is None else t.contiguous() for t in (temperature, guidance, current_shift)
    )
    strides = [*logits.stride()[:2], *((0, 0) if uncond is None else uncond.stride()[:2])]
    excluded = dict(zip(("E0", "E1", "E2", "E3"), [*(exclude or ()), *[-1] * MAX_EXCLUDED], strict=False))
    made: dict[str, Any] = {"dtype": torch.float32, "device": logits.device}
    part_numbers = torch.empty((rows, parts, 6), **made)
    part_tokens = torch.empty((rows, parts), dtype=torch.int64, device=logits.device)
    cut = None
    by_count, by_mass = 0 < top_k < vocabulary, top_p < 1
    with on_device(logits):
        if temperature is not None and (by_count or by_mass):
            cut = torch.empty((rows, 2), dtype=torch.int64, device=logits.device)
            bound = torch.full((), top_p, dtype=torch.float64, device=logits.device)
            KERNELS["cut"][(rows,)](
                logits, uncond, current, temperature, guidance, current_shift, cut, length, vocabulary, top_k, bound,
                *strides, **excluded, COUNT=by_count, MASS=by_mass, BLOCK=token_cut.BLOCK, num_warps=4,
            )  # fmt: skip
        KERNELS["parts"][(rows * parts,)](
            logits, uncond, current, temperature, guidance, current_shift, cut, part_numbers, part_tokens,
            length, vocabulary, parts, *strides, **excluded, PART=PART, num_warps=WARPS,
        )  # fmt: skip
        KERNELS["rows"][(rows,)](
            logits, uncond, current, positions, seeds, index, temperature, guidance, current_shift, cut, part_numbers,
            part_tokens, numbers, tokens, rows, length, vocabulary, parts, *strides, **excluded,
            PARTS=triton.next_power_of_2(parts), PART=PART, num_warps=WARPS,
        )  # fmt: skip


def _rows(t: Tensor, shape: tuple[int, ...]) -> Tensor:
    """[B, L, V] with neighbouring logits."""
    t = t.reshape(shape)
    return t if t.stride(-1) == 1 else t.contiguous()


def refuse(case: CallSpec) -> str | None:
    """Why Triton cannot serve the case."""
    if case.dtype == torch.float64:
        return "serves float32, float16 and bfloat16, not torch.float64"
    if case.device == "cuda" or INTERPRETED:
        return None
    return f"Triton serves CUDA and ROCm devices, not {case.device}"


IMPLEMENTS = {"token_stats": Implementation(run, refuse)}
