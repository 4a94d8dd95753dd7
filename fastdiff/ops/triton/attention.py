"""attention in Triton, for NVIDIA and AMD: one launch, nothing of size queries times keys in memory.

A head size that is no power of two is taken as the sum of two: 40 = 32 + 8, 72 = 64 + 8, 80 = 64 + 16, 160 = 128 + 32.
Logits are the sum of two products and the output has two accumulators, so that little is multiplied by zeros. Few keys
stay on chip while a program walks over queries; many are walked over with a running maximum (Milakov and Gimelshein
2018, algorithm 3; Dao et al. 2022).
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..call_spec import CallSpec, Implementation
from ..definitions.attention import MAX_HEAD_SIZE
from .attention_plan import plan_of
from .layout import on_device

MIN_FACTOR, MAX_FACTOR = 2.0**-149, torch.finfo(torch.float32).max  # positive float32
MAX_STRIDE = 2**23  # elements from one row to the next, so that offsets within a tile fit 32 bits


@triton.jit
def _columns(
    at, row, stride, rows, START: tl.constexpr, WIDTH: tl.constexpr, SIZE: tl.constexpr, WHOLE: tl.constexpr
):  # fmt: skip
    """Columns START .. START + WIDTH - 1 of a tile, zero past the tensor's rows (none where WHOLE) and columns."""
    column = START + tl.arange(0, WIDTH)[None, :]
    place = at + (row[:, None] * stride + column)
    if START + WIDTH <= SIZE:
        tile = tl.load(place) if WHOLE else tl.load(place, mask=row[:, None] < rows, other=0)
    elif WHOLE:
        tile = tl.load(place, mask=column < SIZE, other=0)
    else:
        tile = tl.load(place, mask=(row[:, None] < rows) & (column < SIZE), other=0)
    return tile


@triton.jit
def _load(
    at, row, stride, rows, FIRST: tl.constexpr, SECOND: tl.constexpr, SIZE: tl.constexpr, WHOLE: tl.constexpr
):  # fmt: skip
    """Both parts of a tile's columns; the second is not used where SECOND is 0."""
    first = _columns(at, row, stride, rows, 0, FIRST, SIZE, WHOLE)
    if SECOND > 0:
        return first, _columns(at, row, stride, rows, FIRST, SECOND, SIZE, WHOLE)
    else:
        return first, first


@triton.jit
def _logits(q1, q2, k1, k2, row, keys, SECOND: tl.constexpr, WHOLE: tl.constexpr):
    """q k^T, not yet scaled, and -inf past the last key."""
    # "ieee": float32 operands are not rounded to TF32. Halves are multiplied exactly and summed in float32 either way.
    logits = tl.dot(q1, k1.T, input_precision="ieee")
    if SECOND > 0:
        logits = tl.dot(q2, k2.T, logits, input_precision="ieee")
    return logits if WHOLE else tl.where(row[None, :] < keys, logits, float("-inf"))


@triton.jit
def _weights(logits, top, factor):
    """exp2((logits - top) factor), where a row of -inf keeps -inf. In this order no logit is too large for it."""
    return tl.exp2((logits - tl.where(top == float("-inf"), 0.0, top)[:, None]) * factor)


@triton.jit
def _add(weights, v1, v2, sum1, sum2, SECOND: tl.constexpr):
    """Both parts of the sums over keys, with the weighted values of a tile."""
    # Weights are at most 1; in half precision they are rounded as every fused attention rounds them.
    weights = weights.to(v1.dtype)
    sum1 = tl.dot(weights, v1, sum1, input_precision="ieee")
    if SECOND > 0:
        sum2 = tl.dot(weights, v2, sum2, input_precision="ieee")
    return sum1, sum2


@triton.jit
def _step(
    q1, q2, k, v, row, k_row, v_row, keys, top, total, sum1, sum2, factor,
    FIRST: tl.constexpr, SECOND: tl.constexpr, SIZE: tl.constexpr, WHOLE: tl.constexpr,
):  # fmt: skip
    """The running maximum, sum of weights and weighted values after one more tile of keys."""
    k1, k2 = _load(k, row, k_row, keys, FIRST, SECOND, SIZE, WHOLE)
    logits = _logits(q1, q2, k1, k2, row, keys, SECOND, WHOLE)
    # Values are loaded before the exponentials, which hide the wait.
    v1, v2 = _load(v, row, v_row, keys, FIRST, SECOND, SIZE, WHOLE)
    higher = tl.maximum(top, tl.max(logits, 1))
    weights = _weights(logits, higher, factor)
    # What was summed so far was relative to the old maximum. Before the first tile that is -inf, and kept is 0.
    kept = tl.exp2((top - tl.where(higher == float("-inf"), 0.0, higher)) * factor)
    total = total * kept + tl.sum(weights, 1)
    sum1 = sum1 * kept[:, None]
    if SECOND > 0:
        sum2 = sum2 * kept[:, None]
    sum1, sum2 = _add(weights, v1, v2, sum1, sum2, SECOND)
    return higher, total, sum1, sum2


@triton.jit
def _zeros(ROWS: tl.constexpr, FIRST: tl.constexpr, SECOND: tl.constexpr):
    first = tl.zeros([ROWS, FIRST], tl.float32)
    if SECOND > 0:
        return first, tl.zeros([ROWS, SECOND], tl.float32)
    else:
        return first, 0.0


@triton.jit
def _store_columns(
    at, tile, row, stride, rows, START: tl.constexpr, WIDTH: tl.constexpr, SIZE: tl.constexpr, WHOLE: tl.constexpr
):  # fmt: skip
    column = START + tl.arange(0, WIDTH)[None, :]
    place = at + (row[:, None] * stride + column)
    tile = tile.to(at.dtype.element_ty)
    if START + WIDTH <= SIZE:
        if WHOLE:
            tl.store(place, tile)
        else:
            tl.store(place, tile, mask=row[:, None] < rows)
    elif WHOLE:
        tl.store(place, tile, mask=column < SIZE)
    else:
        tl.store(place, tile, mask=(row[:, None] < rows) & (column < SIZE))


@triton.jit
def _store(
    at, sum1, sum2, total, row, stride, rows,
    FIRST: tl.constexpr, SECOND: tl.constexpr, SIZE: tl.constexpr, WHOLE: tl.constexpr,
):  # fmt: skip
    inverse = (1.0 / total)[:, None]
    _store_columns(at, sum1 * inverse, row, stride, rows, 0, FIRST, SIZE, WHOLE)
    if SECOND > 0:
        _store_columns(at, sum2 * inverse, row, stride, rows, FIRST, SECOND, SIZE, WHOLE)


STRIDES = [f"{name}_{step}" for name in "qkvy" for step in ("batch", "head", "row")]


@triton.jit(do_not_specialize=[*STRIDES, "heads", "queries", "keys", "walks", "share"])
def attention_kernel(
    q, k, v, y,
    q_batch, q_head, q_row, k_batch, k_head, k_row, v_batch, v_head, v_row, y_batch, y_head, y_row,
    factor, heads, queries, keys, walks, share,
    UNIT: tl.constexpr, SIZE: tl.constexpr, FIRST: tl.constexpr, SECOND: tl.constexpr,
    ROWS: tl.constexpr, KEYS: tl.constexpr, TAIL: tl.constexpr, RESIDENT: tl.constexpr, WHOLE_ROWS: tl.constexpr,
    WHOLE_KEYS: tl.constexpr, WHOLE_TAIL: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """One head's queries: a tile of ROWS, or `share` of them where the keys are resident; `walks` programs a head.

    factor: the scale times log2(e). Strides are in units of UNIT elements: their multiples of eight tell the compiler
    that loads are aligned, which it would assume of multiples of sixteen only.
    """
    # 64-bit offsets once a program, to the head and to its rows; 32 bits within a tile (MAX_STRIDE sees to that).
    head = (tl.program_id(0) // walks).to(tl.int64)
    walk = tl.program_id(0) % walks
    batch, head = head // heads, head % heads
    q += (batch * q_batch + head * q_head) * UNIT
    k += (batch * k_batch + head * k_head) * UNIT
    v += (batch * v_batch + head * v_head) * UNIT
    y += (batch * y_batch + head * y_head) * UNIT
    q_row, k_row, v_row, y_row = q_row * UNIT, k_row * UNIT, v_row * UNIT, y_row * UNIT
    q_far, k_far, v_far, y_far = q_row.to(tl.int64), k_row.to(tl.int64), v_row.to(tl.int64), y_row.to(tl.int64)
    row = tl.arange(0, ROWS)
    if RESIDENT:
        # All keys and values are loaded once and stay, while the program walks over its tiles of queries.
        first_key = tl.arange(0, KEYS)
        k1, k2 = _load(k, first_key, k_row, keys, FIRST, SECOND, SIZE, WHOLE_KEYS)
        v1, v2 = _load(v, first_key, v_row, keys, FIRST, SECOND, SIZE, WHOLE_KEYS)
        if TAIL > 0:
            last_key = KEYS + tl.arange(0, TAIL)
            k3, k4 = _load(k, last_key, k_row, keys, FIRST, SECOND, SIZE, WHOLE_TAIL)
            v3, v4 = _load(v, last_key, v_row, keys, FIRST, SECOND, SIZE, WHOLE_TAIL)
        start = walk * share * ROWS
        for at in tl.range(start, tl.minimum(start + share * ROWS, queries), ROWS, num_stages=STAGES):
            q1, q2 = _load(q + at * q_far, row, q_row, queries - at, FIRST, SECOND, SIZE, WHOLE_ROWS)
            logits = _logits(q1, q2, k1, k2, first_key, keys, SECOND, WHOLE_KEYS)
            # All logits of a row are there: one maximum, no running correction.
            top = tl.max(logits, 1)
            if TAIL > 0:
                more = _logits(q1, q2, k3, k4, last_key, keys, SECOND, WHOLE_TAIL)
                top = tl.maximum(top, tl.max(more, 1))
            weights = _weights(logits, top, factor)
            total = tl.sum(weights, 1)
            sum1, sum2 = _zeros(ROWS, FIRST, SECOND)
            sum1, sum2 = _add(weights, v1, v2, sum1, sum2, SECOND)
            if TAIL > 0:
                weights = _weights(more, top, factor)
                total += tl.sum(weights, 1)
                sum1, sum2 = _add(weights, v3, v4, sum1, sum2, SECOND)
            _store(y + at * y_far, sum1, sum2, total, row, y_row, queries - at,
                   FIRST, SECOND, SIZE, WHOLE_ROWS)  # fmt: skip
    else:
        start = walk * ROWS
        q1, q2 = _load(q + start * q_far, row, q_row, queries - start, FIRST, SECOND, SIZE, WHOLE_ROWS)
        top = tl.full([ROWS], float("-inf"), tl.float32)
        total = tl.zeros([ROWS], tl.float32)
        sum1, sum2 = _zeros(ROWS, FIRST, SECOND)
        # Full tiles without a mask, and the rest in a smaller tile of its own where registers suffice for both.
        whole = keys // KEYS * KEYS if TAIL > 0 else keys
        for at in tl.range(0, whole, KEYS, num_stages=STAGES):
            top, total, sum1, sum2 = _step(
                q1, q2, k + at * k_far, v + at * v_far, tl.arange(0, KEYS), k_row, v_row, keys - at,
                top, total, sum1, sum2, factor, FIRST, SECOND, SIZE, WHOLE_KEYS,
            )  # fmt: skip
        if TAIL > 0:
            top, total, sum1, sum2 = _step(
                q1, q2, k + whole * k_far, v + whole * v_far, tl.arange(0, TAIL), k_row, v_row, keys - whole,
                top, total, sum1, sum2, factor, FIRST, SECOND, SIZE, WHOLE_TAIL,
            )  # fmt: skip
        _store(y + start * y_far, sum1, sum2, total, row, y_row, queries - start,
               FIRST, SECOND, SIZE, WHOLE_ROWS)  # fmt: skip


KERNELS = {"attention": attention_kernel}
INTERPRETED = not isinstance(attention_kernel, triton.JITFunction)


def run(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """`reference.attention`, laid out like q where q's rows are dense."""
    q, k, v = (_readable(t) for t in (q, k, v))
    if scale == 0:  # the kernel's -inf for a key that is not there would become NaN
        q, scale = q * 0, 1.0
    elif scale < 0:  # its maximum is taken before scaling
        q, scale = -q, -scale
    y = torch.empty_like(q)
    if y.numel() == 0:
        return y
    plan = plan_of(q, k.shape[2])
    strides = [t.stride()[:3] for t in (q, k, v, y)]
    # All strides are multiples of this: the compiler is told by a factor that it knows at compile time.
    unit = math.gcd(*(step for steps in strides for step in steps), 8)
    steps = [step // unit for steps in strides for step in steps]
    # exp(x) = exp2(x log2 e), and exp2 is one instruction. A factor that is 0 or infinite in float32 would make NaN, of
    # a key that is not there or of the largest logit.
    factor = min(max(scale * math.log2(math.e), MIN_FACTOR), MAX_FACTOR)
    with on_device(q):
        KERNELS["attention"][(plan.programs,)](
            q, k, v, y, *steps, factor, q.shape[1], q.shape[2], k.shape[2], plan.walks, plan.share,
            UNIT=unit, num_warps=plan.warps, **plan.constants,
        )  # fmt: skip
    return y


def _readable(t: Tensor) -> Tensor:
    return t if t.stride(-1) == 1 and t.stride(2) < MAX_STRIDE else t.contiguous()


def refuse(case: CallSpec) -> str | None:
    """Why Triton cannot serve the case."""
    if case.dtype == torch.float64:
        return "serves float32, float16 and bfloat16, not torch.float64"
    if case.shape and case.shape[-1] > MAX_HEAD_SIZE:
        return f"serves head sizes up to {MAX_HEAD_SIZE}, not {case.shape[-1]}"
    if case.device == "cuda" or INTERPRETED:
        return None
    return f"Triton serves CUDA and ROCm devices, not {case.device}"


IMPLEMENTS = {"attention": Implementation(run, refuse)}
