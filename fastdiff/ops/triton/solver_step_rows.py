"""solver_step with a row for each sample in Triton: a program reads its sample's record and branches on what it reads.

Buffers are slots of one pool, evenly spaced in memory; others are copied into one. The arithmetic is that of
`solver_step`, term by term in the same order, with every multiplication and addition fused as there: a sample has the
same bits.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...plans.table import MAX_HISTORY, MAX_NOISE, OFFSET, WIDTH
from ..call_spec import Implementation
from ..reference import compute_dtype
from ..row_table import BASE, BASE_OUT, D_OUT, HISTORY, RECORD, X_OUT, X
from .elements import TYPES, WARPS, offset
from .layout import Layout, conform, joint_layout, on_device, same_layout, target
from .philox import normal
from .solver_step import BLOCK, MAX_OTHERS, limited, load_output, refuse, weighted_sum

_AT = {name: tl.constexpr(place) for name, place in OFFSET.items()}
_P_X, _P_M, _CLAMP, _GUIDANCE, _C_IN = (_AT[name] for name in ("p_x", "p_m", "clamp", "guidance", "c_in"))
_A_BASE, _A_X, _A, _B_BASE, _B_X, _B = (_AT[name] for name in ("a_base", "a_x", "A", "b_base", "b_x", "B"))
_XI_A, _XI_B, _NOISE = (_AT[name] for name in ("xi_a", "xi_b", "noise"))
_X, _BASE, _HISTORY = (tl.constexpr(WIDTH + slot) for slot in (X, BASE, HISTORY))
_X_OUT, _BASE_OUT, _D_OUT = (tl.constexpr(WIDTH + slot) for slot in (X_OUT, BASE_OUT, D_OUT))
_RECORD, _PAST, _NOISES = (tl.constexpr(n) for n in (RECORD, MAX_HISTORY, MAX_NOISE))


@triton.jit
def _slot(pool, number, spacing, UNIT: tl.constexpr):
    """Where buffer `number` begins."""
    return pool + number.to(tl.int64) * spacing * UNIT


@triton.jit(do_not_specialize=["spacing", "blocks"])
def _solver_step_rows(
    table, rows, pool, m, m_uncond, second, third, state, guidances, thresholds, seeds, weights, out_input, out_state,
    spacing, blocks, units, size_1, size_2,
    state_b, state_0, state_1, state_2,
    model_b, model_0, model_1, model_2,
    input_b, input_0, input_1, input_2, input_copy,
    SETS: tl.constexpr, COPIES: tl.constexpr, DIMS: tl.constexpr, UNIT: tl.constexpr, WIDE: tl.constexpr,
    DTYPE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    pid = tl.program_id(0)
    if WIDE:
        pid = pid.to(tl.int64)
    b = pid // blocks
    row = tl.load(rows + b)
    if row < 0:
        return
    record = table + row * _RECORD
    start = pid % blocks * BLOCK
    e = start + tl.arange(0, BLOCK)
    mask = e < units * UNIT
    at = offset(b, e, size_1, size_2, state_b, state_0, state_1, state_2, DIMS, UNIT)
    model_at = offset(b, e, size_1, size_2, model_b, model_0, model_1, model_2, DIMS, UNIT)

    # Where the registers are the same buffer their weights are one.
    same = tl.load(record + _X) == tl.load(record + _BASE)
    a_base, b_base = tl.load(record + _A_BASE), tl.load(record + _B_BASE)
    a_x = (tl.load(record + _A_X) + tl.where(same, a_base, 0.0)).to(DTYPE)
    b_x = (tl.load(record + _B_X) + tl.where(same, b_base, 0.0)).to(DTYPE)
    a_base, b_base = tl.where(same, 0.0, a_base).to(DTYPE), tl.where(same, 0.0, b_base).to(DTYPE)
    p_x, p_m = tl.load(record + _P_X).to(DTYPE), tl.load(record + _P_M).to(DTYPE)

    d = tl.zeros([BLOCK], DTYPE)
    new_x = d
    new_base = d
    value = d
    reads_x = (p_x != 0) | (a_x != 0) | (b_x != 0)
    makes_state = out_state is not None
    sums = (weights is not None) & ((p_m != 0) | makes_state)
    if reads_x | sums:
        value = tl.load(_slot(pool, tl.load(record + _X), spacing, UNIT) + at, mask=mask).to(DTYPE)
    if reads_x:
        d = p_x * value
        new_x = a_x * value
        new_base = b_x * value
    from_x = d
    if weights is not None:
        live = mask & sums
        uncond = load_output(m_uncond, None, model_at, live, DTYPE)
        difference = load_output(m, uncond, model_at, live, DTYPE)
        more = load_output(second, uncond, model_at, live, DTYPE)
        most = load_output(third, uncond, model_at, live, DTYPE)
        kept = load_output(state, None, at, live, DTYPE)
        own = weights + b * (SETS * 6)
        if p_m != 0:
            y = weighted_sum(own, difference, uncond, more, most, value, kept, BLOCK, DTYPE)
            d = tl.fma(p_m, y, d)
    elif p_m != 0:
        prediction = tl.load(m + model_at, mask=mask).to(DTYPE)
        if m_uncond is not None:
            scale = tl.load(record + _GUIDANCE) if guidances is None else tl.load(guidances + b)
            if scale == scale:  # NaN: none
                uncond = tl.load(m_uncond + model_at, mask=mask).to(DTYPE)
                prediction = tl.fma(scale.to(DTYPE), prediction - uncond, uncond)
        d = tl.fma(p_m, prediction, d)
    threshold = None
    if thresholds is not None:
        threshold = tl.load(thresholds + b).to(DTYPE)
    clamp = tl.load(record + _CLAMP).to(DTYPE)
    d = limited(d, clamp, threshold, True)

    new_x = tl.fma(tl.load(record + _A).to(DTYPE), d, new_x)
    new_base = tl.fma(tl.load(record + _B).to(DTYPE), d, new_base)
    if (a_base != 0) | (b_base != 0):
        base = tl.load(_slot(pool, tl.load(record + _BASE), spacing, UNIT) + at, mask=mask).to(DTYPE)
        new_x = tl.fma(a_base, base, new_x)
        new_base = tl.fma(b_base, base, new_base)
    for k in range(1, _PAST):
        a, b_line = tl.load(record + _A + k).to(DTYPE), tl.load(record + _B + k).to(DTYPE)
        if (a != 0) | (b_line != 0):
            past = tl.load(_slot(pool, tl.load(record + _HISTORY - 1 + k), spacing, UNIT) + at, mask=mask).to(DTYPE)
            new_x = tl.fma(a, past, new_x)
            new_base = tl.fma(b_line, past, new_base)
    if seeds is not None:
        for j in tl.static_range(_NOISES):
            a, b_line = tl.load(record + _XI_A + j).to(DTYPE), tl.load(record + _XI_B + j).to(DTYPE)
            if (a != 0) | (b_line != 0):
                index = tl.load(record + _NOISE + j).to(tl.int64).to(tl.uint32)
                xi = normal(tl.load(seeds + b), index, start, BLOCK, DTYPE)
                new_x = tl.fma(a, xi, new_x)
                new_base = tl.fma(b_line, xi, new_base)

    tl.store(_slot(pool, tl.load(record + _X_OUT), spacing, UNIT) + at, new_x, mask=mask)
    base_out, d_out = tl.load(record + _BASE_OUT), tl.load(record + _D_OUT)
    if base_out >= 0:
        tl.store(_slot(pool, base_out, spacing, UNIT) + at, new_base, mask=mask)
    if SETS > 1:  # noqa: SIM102 - known when it is compiled, the next is not
        if p_m != 0:
            y = weighted_sum(own + 6, difference, uncond, more, most, value, kept, BLOCK, DTYPE)
            d = limited(tl.fma(p_m, y, from_x), clamp, threshold, True)
    if d_out >= 0:
        tl.store(_slot(pool, d_out, spacing, UNIT) + at, d, mask=mask)
    if out_state is not None:
        y = weighted_sum(own + 12, difference, uncond, more, most, value, kept, BLOCK, DTYPE)
        tl.store(out_state + at, y, mask=mask)
    if out_input is not None:
        input_at = offset(b, e, size_1, size_2, input_b, input_0, input_1, input_2, DIMS, UNIT)
        model_input = tl.load(record + _C_IN).to(DTYPE) * new_x
        step = tl.cast(input_copy, tl.int64) if WIDE else input_copy
        for copy in tl.static_range(COPIES):
            tl.store(out_input + copy * UNIT * step + input_at, model_input, mask=mask)


KERNELS = {torch.float32: _solver_step_rows, torch.float64: _solver_step_rows}


def run(
    table: Tensor,
    rows: Tensor,
    buffers: Sequence[Tensor],
    m: Tensor | None,
    m_uncond: Tensor | None,
    guidance: Tensor | None,
    threshold: Tensor | None,
    seeds: Tensor | None,
    out_input: Tensor | None,
    others: Sequence[Tensor | None] = (),
    state: Tensor | None = None,
    weights: Tensor | None = None,
    out_state: Tensor | None = None,
) -> None:
    """The contract of `reference_rows.run_solver_step_rows`."""
    x = buffers[0]
    if x.numel() == 0:
        return
    models = [m, m_uncond, *others, *[None] * (MAX_OTHERS - len(others))]
    # All outputs are walked by one set of strides.
    first = next((output for output in models if output is not None), x)
    if any(output is not None and not same_layout(output, first.stride()) for output in models):
        models = [None if output is None else output.contiguous() for output in models]
        first = next(output for output in models if output is not None)
    like_input = x if out_input is None else out_input
    copies = 1 if out_input is None else len(out_input) // len(x)
    strides = (x.stride(), first.stride(), like_input.stride())
    layout = joint_layout(tuple(x.shape), strides, per_sample=True, ordered=seeds is not None, copies=copies)
    spacing = _spacing(buffers, layout)
    if spacing is None:
        pool = torch.stack(list(buffers))
        given = (m, m_uncond, guidance, threshold, seeds, out_input, others, state, weights, out_state)
        run(table, rows, pool.unbind(), *given)
        for buffer, result in zip(buffers, pool, strict=True):
            buffer.copy_(result)
        return
    like_x, like_m, like_inputs = layout.groups
    numbers = [None if v is None else v.contiguous() for v in (guidance, threshold, seeds, weights)]
    outputs = [(out_input, like_inputs), (out_state, like_x)]
    # A sample that does not move keeps what it has.
    written = [_conformed(tensor, stride) for tensor, stride in outputs]
    sets = weights.shape[1] if weights is not None else 0
    dtype, blocks = compute_dtype(x.dtype), -(-layout.elements // BLOCK)
    with on_device(x):
        KERNELS[dtype][(layout.batch * blocks,)](
            table.contiguous(), rows.contiguous(), x, *(conform(output, like_m) for output in models),
            conform(state, like_x), *numbers, *written,
            spacing, blocks, layout.elements // layout.unit, *layout.inner, *layout.strides, layout.copy,
            SETS=sets, COPIES=copies, DIMS=layout.dims, UNIT=layout.unit, WIDE=layout.wide,
            DTYPE=TYPES[dtype], BLOCK=BLOCK, num_warps=WARPS, enable_fp_fusion=True,
        )  # fmt: skip
    for (tensor, _), result in zip(outputs, written, strict=True):
        if tensor is not None and result is not None and tensor is not result:
            tensor.copy_(result)


def _spacing(buffers: Sequence[Tensor], layout: Layout) -> int | None:
    """Units from one buffer to the next, 0 where there is one; None where they are no slots of a pool laid out so."""
    x = buffers[0]
    if not same_layout(x, layout.groups[0]):
        return None
    begins = [buffer.data_ptr() for buffer in buffers]
    unit = layout.unit * x.element_size()
    apart = begins[1] - begins[0] if len(buffers) > 1 else 0
    even = all(begin == begins[0] + k * apart for k, begin in enumerate(begins))
    alike = all(same_layout(buffer, x.stride()) for buffer in buffers)
    return apart // unit if even and alike and apart % unit == 0 else None


def _conformed(tensor: Tensor | None, strides: tuple[int, ...]) -> Tensor | None:
    made = target(tensor, strides)
    return made if made is None or tensor is None or made is tensor else made.copy_(tensor)


IMPLEMENTS = {"solver_step_rows": Implementation(run, refuse)}
