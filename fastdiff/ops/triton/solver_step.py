"""solver_step in Triton: one pass over memory, for NVIDIA and AMD.

Only the structure of a row is compiled in: which operands there are, how memory is walked, whether D is clamped.
Weights, noise indices and seeds are run-time arguments that Triton does not specialise on, so a plan needs as many
compilations as it has structures. Weights are float32 arguments. Triton passes every Python float as float32, so a
second build of the same function, for float64 state, takes the bits of each weight as an int64.

Multiplications are fused with the additions after them as it is written here, whatever the compiler prefers, so that
`solver_step_rows` has the same bits.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

from ...plans.table import MAX_HISTORY, MAX_NOISE, ROW, reads_history, reads_noise
from ..call_spec import CallSpec, Implementation
from ..reference import compute_dtype
from .elements import TYPES, WARPS, offset, parameters, weight, with_weights
from .layout import conform, joint_layout, on_device, same_layout, target
from .philox import normal

MAX_OTHERS = 2  # outputs beyond m and m_uncond
BLOCK = 1024  # elements of one sample that a program takes


@triton.jit
def _add(new_x, new_base, operand, a, b, at, mask, DTYPE: tl.constexpr):
    """One term of both lines, with one load, or none if the operand is absent."""
    if operand is not None:
        value = tl.load(operand + at, mask=mask).to(DTYPE)
        new_x = tl.fma(weight(a, DTYPE), value, new_x)
        new_base = tl.fma(weight(b, DTYPE), value, new_base)
    return new_x, new_base


@triton.jit
def _add_noise(new_x, new_base, seed, noise, a, b, start, BLOCK: tl.constexpr, DTYPE: tl.constexpr):
    if noise is not None:
        xi = normal(seed, noise, start, BLOCK, DTYPE)
        new_x = tl.fma(weight(a, DTYPE), xi, new_x)
        new_base = tl.fma(weight(b, DTYPE), xi, new_base)
    return new_x, new_base


@triton.jit
def load_output(output, uncond, at, mask, DTYPE: tl.constexpr):
    """A model's output less the unconditional one where there is one; None where it is absent."""
    if output is None:
        value = None
    else:
        value = tl.load(output + at, mask=mask).to(DTYPE)
        if uncond is not None:
            value = value - uncond
    return value


@triton.jit
def _take(y, weights, column: tl.constexpr, value, DTYPE: tl.constexpr):
    """y + weight value, fused in this order whatever the compiler prefers: weights that say guidance give its bits."""
    if value is not None:
        weight = tl.load(weights + column).to(DTYPE)
        # A weight of zero takes nothing, not even from an infinity.
        y = tl.where(weight != 0, tl.fma(weight, value, y), y)
    return y


@triton.jit
def weighted_sum(weights, m, uncond, second, third, x, state, BLOCK: tl.constexpr, DTYPE: tl.constexpr):
    """y of the set of six numbers that `weights` points to."""
    y = tl.zeros([BLOCK], DTYPE)
    y = _take(y, weights, 1, uncond, DTYPE)
    y = _take(y, weights, 4, x, DTYPE)
    y = _take(y, weights, 5, state, DTYPE)
    y = _take(y, weights, 0, m, DTYPE)
    y = _take(y, weights, 2, second, DTYPE)
    return _take(y, weights, 3, third, DTYPE)


@triton.jit
def limited(d, limit, threshold, CLAMP: tl.constexpr):
    """D within its limits, and divided by the threshold where there is one."""
    # Comparisons with NaN are false, so NaN passes through both limits.
    if CLAMP:
        d = tl.where(d > limit, limit, tl.where(d < -limit, -limit, d))
    if threshold is not None:
        s = threshold
        d = tl.where(d > s, s, tl.where(d < -s, -s, d)) / s  # Saharia et al. 2022, section 2.3
    return d


def _solver_step(
    x, base, m, m_uncond, second, third, state, h1, h2, h3, h4, h5, h6, h7, guidances, thresholds, seeds, weights,
    out_x, out_base, out_d, out_input, out_state,
    p_x, p_m, clamp, guidance, c_in,
    a_base, a_x, a0, a1, a2, a3, a4, a5, a6, a7,
    b_base, b_x, b0, b1, b2, b3, b4, b5, b6, b7,
    xi_a0, xi_a1, xi_b0, xi_b1, noise0, noise1,
    blocks, units, size_1, size_2,
    state_b, state_0, state_1, state_2,
    model_b, model_0, model_1, model_2,
    input_b, input_0, input_1, input_2, input_copy,
    READS_X: tl.constexpr, SETS: tl.constexpr, CONVERTS: tl.constexpr, PUSHES: tl.constexpr,
    COPIES: tl.constexpr, CLAMP: tl.constexpr, DIMS: tl.constexpr, UNIT: tl.constexpr, WIDE: tl.constexpr,
    DTYPE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    # One sample a program, so that its seed, guidance and threshold are single loads.
    pid = tl.program_id(0)
    if WIDE:  # offsets past 2^31; 32-bit arithmetic is half the instructions and registers
        pid = pid.to(tl.int64)
    b = pid // blocks
    start = pid % blocks * BLOCK
    e = start + tl.arange(0, BLOCK)
    mask = e < units * UNIT  # a multiple of UNIT, as the compiler sees: whole vectors are in or out
    at = offset(b, e, size_1, size_2, state_b, state_0, state_1, state_2, DIMS, UNIT)
    zero = tl.zeros([BLOCK], DTYPE)

    # x and the model's output come first, since D needs them; the rest is a sum.
    d = zero
    new_x = zero
    new_base = zero
    value = None
    if x is not None:
        value = tl.load(x + at, mask=mask).to(DTYPE)
        if READS_X:  # not only the weighted sums do
            d = weight(p_x, DTYPE) * value
            new_x = weight(a_x, DTYPE) * value
            new_base = weight(b_x, DTYPE) * value
    from_x = d
    if weights is not None:
        model_at = offset(b, e, size_1, size_2, model_b, model_0, model_1, model_2, DIMS, UNIT)
        uncond = load_output(m_uncond, None, model_at, mask, DTYPE)
        difference = load_output(m, uncond, model_at, mask, DTYPE)
        more = load_output(second, uncond, model_at, mask, DTYPE)
        most = load_output(third, uncond, model_at, mask, DTYPE)
        kept = load_output(state, None, at, mask, DTYPE)
        own = weights + b * (SETS * 6)
        if CONVERTS:
            y = weighted_sum(own, difference, uncond, more, most, value, kept, BLOCK, DTYPE)
            d = tl.fma(weight(p_m, DTYPE), y, d)
    elif m is not None:
        model_at = offset(b, e, size_1, size_2, model_b, model_0, model_1, model_2, DIMS, UNIT)
        prediction = tl.load(m + model_at, mask=mask).to(DTYPE)
        if m_uncond is not None:
            scale = weight(guidance, DTYPE) if guidances is None else tl.load(guidances + b).to(DTYPE)
            uncond = tl.load(m_uncond + model_at, mask=mask).to(DTYPE)
            # In this form guidance 1 is m up to rounding, and large scales multiply the difference alone.
            prediction = tl.fma(scale, prediction - uncond, uncond)
        d = tl.fma(weight(p_m, DTYPE), prediction, d)
    threshold = None
    if thresholds is not None:
        threshold = tl.load(thresholds + b).to(DTYPE)
    d = limited(d, weight(clamp, DTYPE), threshold, CLAMP)

    new_x = tl.fma(weight(a0, DTYPE), d, new_x)
    new_base = tl.fma(weight(b0, DTYPE), d, new_base)
    new_x, new_base = _add(new_x, new_base, base, a_base, b_base, at, mask, DTYPE)
    new_x, new_base = _add(new_x, new_base, h1, a1, b1, at, mask, DTYPE)
    new_x, new_base = _add(new_x, new_base, h2, a2, b2, at, mask, DTYPE)
    new_x, new_base = _add(new_x, new_base, h3, a3, b3, at, mask, DTYPE)
    new_x, new_base = _add(new_x, new_base, h4, a4, b4, at, mask, DTYPE)
    new_x, new_base = _add(new_x, new_base, h5, a5, b5, at, mask, DTYPE)
    new_x, new_base = _add(new_x, new_base, h6, a6, b6, at, mask, DTYPE)
    new_x, new_base = _add(new_x, new_base, h7, a7, b7, at, mask, DTYPE)
    # Noise is computed from (seed, index, element) in registers: no tensor of it is ever in memory.
    seed = tl.load(seeds + b) if seeds is not None else 0
    new_x, new_base = _add_noise(new_x, new_base, seed, noise0, xi_a0, xi_b0, start, BLOCK, DTYPE)
    new_x, new_base = _add_noise(new_x, new_base, seed, noise1, xi_a1, xi_b1, start, BLOCK, DTYPE)

    tl.store(out_x + at, new_x, mask=mask)
    if out_base is not None:
        tl.store(out_base + at, new_base, mask=mask)
    if PUSHES:
        y = weighted_sum(own + 6, difference, uncond, more, most, value, kept, BLOCK, DTYPE)
        d = limited(tl.fma(weight(p_m, DTYPE), y, from_x), weight(clamp, DTYPE), threshold, CLAMP)
    if out_d is not None:
        tl.store(out_d + at, d, mask=mask)
    if out_state is not None:
        y = weighted_sum(own + 12, difference, uncond, more, most, value, kept, BLOCK, DTYPE)
        tl.store(out_state + at, y, mask=mask)
    if out_input is not None:
        input_at = offset(b, e, size_1, size_2, input_b, input_0, input_1, input_2, DIMS, UNIT)
        # From x' in the compute precision, not as it was rounded for out_x.
        model_input = weight(c_in, DTYPE) * new_x
        step = tl.cast(input_copy, tl.int64) if WIDE else input_copy
        for copy in tl.static_range(COPIES):
            tl.store(out_input + copy * UNIT * step + input_at, model_input, mask=mask)


PARAMETERS = parameters(_solver_step)
WEIGHTS = PARAMETERS[PARAMETERS.index("p_x") : PARAMETERS.index("noise0")]
OTHERS = ("noise0", "noise1", "blocks")  # not specialised on either
KERNELS = {
    torch.float32: with_weights(_solver_step, WEIGHTS, "fp32", OTHERS),
    torch.float64: with_weights(_solver_step, WEIGHTS, "int64", OTHERS),
}
INTERPRETED = not isinstance(KERNELS[torch.float32], triton.JITFunction)


class _Row(NamedTuple):
    """One row made ready to launch: which operands it reads, and its numbers. A noise it does not draw is None."""

    x: bool
    base: bool
    m: bool
    history: tuple[bool, ...]  # H_1 .. H_7
    clamps: bool
    weights: tuple[float, ...]  # in the order of WEIGHTS
    noises: tuple[int | None, ...]


@functools.lru_cache(maxsize=4096)
def _ready(record: bytes, dtype: torch.dtype, base_is_x: bool) -> _Row:
    row = np.frombuffer(record, ROW).copy()[0]
    # One load instead of two where the registers are the same tensor.
    if base_is_x:
        row["a_x"] += row["a_base"]
        row["b_x"] += row["b_base"]
        row["a_base"] = row["b_base"] = 0
    numbers = np.atleast_1d(row).view(np.int64 if dtype == torch.float64 else np.float64).tolist()
    # Noise indices go as int32 of the same bits: one type, so one compilation, for all of them.
    noises = [int(np.uint32(row["noise"][j]).view(np.int32)) if reads_noise(row, j) else None for j in range(MAX_NOISE)]
    return _Row(
        x=bool(row["p_x"] != 0 or row["a_x"] != 0 or row["b_x"] != 0),
        base=bool(row["a_base"] != 0 or row["b_base"] != 0),
        m=bool(row["p_m"] != 0),
        history=tuple(reads_history(row, k) for k in range(1, MAX_HISTORY)),
        clamps=bool(np.isfinite(row["clamp"])),
        weights=tuple(numbers[: len(WEIGHTS)]),
        noises=tuple(noises),
    )


def run(
    table: np.ndarray,
    i: int,
    x: Tensor,
    base: Tensor | None,
    m: Tensor | None,
    m_uncond: Tensor | None,
    history: Sequence[Tensor | None],
    guidance: Tensor | None,
    threshold: Tensor | None,
    seeds: Tensor | None,
    out_x: Tensor,
    out_base: Tensor | None,
    out_d: Tensor | None,
    out_input: Tensor | None,
    others: Sequence[Tensor | None] = (),
    state: Tensor | None = None,
    weights: Tensor | None = None,
    out_state: Tensor | None = None,
) -> None:
    """The contract of `reference.run_solver_step`."""
    if x.numel() == 0:
        return
    dtype = compute_dtype(x.dtype)
    row = _ready(table[i].tobytes(), dtype, base is x)
    draws = row.noises != (None, None)
    sums = weights is not None and (row.m or out_state is not None)
    if weights is not None:
        guidance = None
    models = [m, m_uncond, *others, *[None] * (MAX_OTHERS - len(others))] if row.m or sums else [None] * 4
    # All outputs are walked by one set of strides.
    first = next((output for output in models if output is not None), out_x)
    if any(output is not None and not same_layout(output, first.stride()) for output in models):
        models = [None if output is None else output.contiguous() for output in models]
        first = next(output for output in models if output is not None)
    copies = 1 if out_input is None else len(out_input) // len(x)
    layout = joint_layout(
        tuple(x.shape),
        (out_x.stride(), first.stride(), (out_x if out_input is None else out_input).stride()),
        per_sample=draws or any(v is not None for v in (guidance, threshold, weights)),
        ordered=draws,
        copies=copies,
    )
    like_x, like_m, like_input = layout.groups
    past = [h if read else None for h, read in zip(history, row.history, strict=False)]
    per_sample = (guidance, threshold, seeds if draws else None, weights if sums else None)
    inputs = [
        conform(x if row.x or sums else None, like_x),
        conform(base if row.base else None, like_x),
        *(conform(output, like_m) for output in models),
        conform(state if sums else None, like_x),
        *(conform(h, like_x) for h in past),
        *[None] * (MAX_HISTORY - 1 - len(past)),
        *(None if v is None else v.contiguous() for v in per_sample),
    ]
    outputs = [(out_x, like_x), (out_base, like_x), (out_d, like_x), (out_input, like_input), (out_state, like_x)]
    written = [target(tensor, strides) for tensor, strides in outputs]
    sets = weights.shape[1] if weights is not None else 0
    blocks = -(-layout.elements // BLOCK)
    with on_device(x):
        KERNELS[dtype][(layout.batch * blocks,)](
            *inputs, *written, *row.weights, *row.noises,
            blocks, layout.elements // layout.unit, *layout.inner, *layout.strides, layout.copy,
            READS_X=row.x, SETS=sets, CONVERTS=row.m and sets > 0, PUSHES=row.m and sets > 1,
            COPIES=copies, CLAMP=row.clamps, DIMS=layout.dims, UNIT=layout.unit, WIDE=layout.wide,
            DTYPE=TYPES[dtype], BLOCK=BLOCK, num_warps=WARPS, enable_fp_fusion=True,
        )  # fmt: skip
    for (tensor, _), result in zip(outputs, written, strict=True):
        if tensor is not None and result is not None and tensor is not result:
            tensor.copy_(result)


def refuse(case: CallSpec) -> str | None:
    """Why Triton cannot serve the case."""
    if case.device == "cuda" or INTERPRETED:
        return None
    return f"Triton serves CUDA and ROCm devices, not {case.device}"


IMPLEMENTS = {"solver_step": Implementation(run, refuse)}
