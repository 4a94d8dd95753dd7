"""group_norm in Triton, for NVIDIA and AMD: one launch, or two where one would not fill the machine; no atomics.

Statistics are taken of x + add - pivot, where the pivot is the group's first element, so that a large mean costs no
digits: in two passes over registers where a slab fits there, by Welford's recurrence in each lane of a tile and Chan's
merge of the lanes where it does not. A slab that does not fit is read again to be written, from the cache if it is
there. Where one launch has several programs for a slab, each takes the whole slab's statistics and writes its share.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..call_spec import CallSpec, Implementation
from ..layout import layout_of
from .group_norm_plan import MAX_COLUMNS, plan_of
from .layout import on_device


@triton.jit
def _group_sum(tile, LIVE: tl.constexpr, COLUMNS: tl.constexpr, TOGETHER: tl.constexpr):
    """The sum over rows and a group's columns: a number, or [1, COLUMNS] with each column's group's."""
    if TOGETHER == 1:
        total = tl.sum(tl.sum(tile, 1), 0)
    else:
        # Groups lie side by side in the columns: column sums, then for each group the columns that are its own. No
        # reshape: a group's columns need not be a power of two.
        GROUPS: tl.constexpr = triton.next_power_of_2(TOGETHER)
        own = tl.arange(0, COLUMNS)[None, :] // (LIVE // TOGETHER) == tl.arange(0, GROUPS)[:, None]
        each = tl.sum(tl.where(own, tl.sum(tile, 0)[None, :], 0.0), 1)
        total = tl.sum(tl.where(own, each[:, None], 0.0), 0)[None, :]
    return total


@triton.jit
def _merge(mean, m2, count, total, LIVE: tl.constexpr, COLUMNS: tl.constexpr, TOGETHER: tl.constexpr):
    """Mean and sum of squared deviations of groups whose parts, of `count` elements each, have these (Chan et al.)."""
    group_mean = _group_sum(count * mean, LIVE, COLUMNS, TOGETHER) / total
    off = mean - group_mean
    return group_mean, _group_sum(m2 + count * (off * off), LIVE, COLUMNS, TOGETHER)


@triton.jit
def _channels(row, column, units, LAST: tl.constexpr):
    """The channels of a tile, within the slab: [1, COLUMNS] or [ROWS, 1]."""
    return column if LAST else row // units


@triton.jit
def _sum(a, b):
    """a + b as rounded and what rounding lost (Knuth)."""
    total = a + b
    b_taken = total - a
    return total, (a - (total - b_taken)) + (b - b_taken)


@triton.jit
def _load(
    x, add, pivot, row, column, end, units,
    STRIDE: tl.constexpr, LIVE: tl.constexpr, COLUMNS: tl.constexpr, LAST: tl.constexpr,
):  # fmt: skip
    """x + add - pivot of a tile, and where there is such an element.

    What a channel's offset add - pivot loses in rounding is added after it, so that x + add keeps all its digits.
    """
    mask = row < end if LIVE == COLUMNS else (row < end) & (column < LIVE)
    value = tl.load(x + (row * STRIDE + column), mask=mask, other=0).to(tl.float32)
    if add is None:
        value -= pivot
    else:
        there = column < LIVE if LAST else row < end
        added = tl.load(add + _channels(row, column, units, LAST), mask=there, other=0).to(tl.float32)
        offset, lost = _sum(added, -pivot)
        value = (value + offset) + lost
    return value, mask


@triton.jit
def _looped_statistics(
    x, add, pivot, column, first, end, units,
    STRIDE: tl.constexpr, LIVE: tl.constexpr, COLUMNS: tl.constexpr, ROWS: tl.constexpr, TOGETHER: tl.constexpr,
    LAST: tl.constexpr,
):  # fmt: skip
    """Mean and sum of squared deviations, counted from the pivot, of each group over rows first .. end - 1."""
    lane = tl.arange(0, ROWS)[:, None]
    mean = tl.zeros([ROWS, COLUMNS], tl.float32)
    m2 = tl.zeros([ROWS, COLUMNS], tl.float32)
    n = 0.0
    for start in range(first, end, ROWS):
        value, mask = _load(x, add, pivot, start + lane, column, end, units, STRIDE, LIVE, COLUMNS, LAST)
        # Welford's recurrence in every lane of the tile: the lanes never wait for one another until the end.
        n += 1.0
        delta = tl.where(mask, value - mean, 0.0)
        step = delta * (1.0 / n)  # n is the same for all lanes: one division a tile
        mean += step
        m2 += delta * (delta - step)
    # How many elements each lane has seen: the last tile may be partial.
    count = tl.where(column < LIVE, (end - first - lane + ROWS - 1) // ROWS, 0).to(tl.float32)
    total = (end - first).to(tl.float32) * (LIVE // TOGETHER)
    return _merge(mean, m2, count, total, LIVE, COLUMNS, TOGETHER)


@triton.jit
def _merged_partials(
    partials, column, rows, share, splits,
    LIVE: tl.constexpr, COLUMNS: tl.constexpr, TOGETHER: tl.constexpr, SPLITS: tl.constexpr,
):  # fmt: skip
    """The statistics of whole groups from those of the splits' rows; `partials` [groups, splits, 2]."""
    split = tl.arange(0, SPLITS)[:, None]
    at = split
    there = split < splits
    if TOGETHER > 1:
        first_of_group = (column < LIVE) & (column % (LIVE // TOGETHER) == 0)
        there = there & first_of_group
        at = column // (LIVE // TOGETHER) * splits + split
    mean = tl.load(partials + 2 * at, mask=there, other=0)
    m2 = tl.load(partials + 2 * at + 1, mask=there, other=0)
    taken = tl.minimum(rows - split * share, share) * (LIVE // TOGETHER)
    count = tl.where(there, taken, 0).to(tl.float32)
    total = rows.to(tl.float32) * (LIVE // TOGETHER)
    return _merge(mean, m2, count, total, LIVE, COLUMNS, TOGETHER)


@triton.jit
def _modulation(weight, bias, scale, shift, channel, mask):
    """a and b of act(a * normalised + b)."""
    a = tl.zeros_like(channel).to(tl.float32) + 1.0
    b = tl.zeros_like(channel).to(tl.float32)
    if weight is not None:
        a = tl.load(weight + channel, mask=mask, other=0).to(tl.float32)
    if bias is not None:
        b = tl.load(bias + channel, mask=mask, other=0).to(tl.float32)
    if scale is not None:
        # (w n + b) (1 + scale) + shift, multiplied out: one multiply-add an element is left.
        factor = 1.0 + tl.load(scale + channel, mask=mask, other=0).to(tl.float32)
        a *= factor
        b *= factor
    if shift is not None:
        b += tl.load(shift + channel, mask=mask, other=0).to(tl.float32)
    return a, b


@triton.jit
def _store(y, value, mean, rstd, a, b, row, column, mask, STRIDE: tl.constexpr, SILU: tl.constexpr):
    # rstd a first, which is one number a channel; the mean is subtracted before it is scaled, so it costs no digits.
    h = (value - mean) * (rstd * a) + b
    if SILU:
        h = h / (1.0 + tl.exp(-h))
    tl.store(y + (row * STRIDE + column), h, mask=mask)


SIZES = ["add_row", "scale_row", "shift_row", "rows", "units", "blocks", "channels", "share", "splits"]


@triton.jit(do_not_specialize=SIZES)
def group_norm_kernel(
    x, y, partials, weight, bias, add, scale, shift, add_row, scale_row, shift_row, eps,
    rows, units, blocks, channels, share, splits,
    LAST: tl.constexpr, STRIDE: tl.constexpr, LIVE: tl.constexpr, COLUMNS: tl.constexpr, TOGETHER: tl.constexpr,
    ROWS: tl.constexpr, SPLITS: tl.constexpr, WHOLE: tl.constexpr, STATISTICS: tl.constexpr, OUTPUT: tl.constexpr,
    SILU: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """One slab, or a share of it: its statistics, to `partials` if OUTPUT is not wanted, and its output.

    channels: those of a slab.
    """
    pid = tl.program_id(0)
    slab = pid // splits
    split = pid % splits
    sample = slab // blocks
    if WIDE:
        rows = rows.to(tl.int64)
        share = share.to(tl.int64)
    lane = tl.arange(0, ROWS)[:, None]
    column = tl.arange(0, COLUMNS)[None, :]
    first = split * share
    end = tl.minimum(first + share, rows)

    channel = slab % blocks * channels
    start = (sample if LAST else slab).to(tl.int64) * rows * STRIDE
    if LAST:
        start += slab % blocks * LIVE
    x += start
    y += start
    if weight is not None:
        weight += channel
    if bias is not None:
        bias += channel
    if add is not None:
        add += sample.to(tl.int64) * add_row + channel
    if scale is not None:
        scale += sample.to(tl.int64) * scale_row + channel
    if shift is not None:
        shift += sample.to(tl.int64) * shift_row + channel

    # The pivot: the group's own first element, by the column that the group begins in.
    first_column = 0
    if TOGETHER > 1:
        first_column = tl.minimum(column, LIVE - 1) // (LIVE // TOGETHER) * (LIVE // TOGETHER)
    pivot = tl.load(x + first_column).to(tl.float32)
    if add is not None:
        pivot += tl.load(add + first_column).to(tl.float32)

    size = rows.to(tl.float32) * (LIVE // TOGETHER)
    if WHOLE:
        # The slab fits the registers: one read, the mean, then the deviations from it.
        value, mask = _load(x, add, pivot, lane, column, rows, units, STRIDE, LIVE, COLUMNS, LAST)
        mean = _group_sum(tl.where(mask, value, 0.0), LIVE, COLUMNS, TOGETHER) / size
        off = tl.where(mask, value - mean, 0.0)
        m2 = _group_sum(off * off, LIVE, COLUMNS, TOGETHER)
        rstd = tl.rsqrt(m2 / size + eps)
        there = column < LIVE if LAST else lane < rows
        a, b = _modulation(weight, bias, scale, shift, _channels(lane, column, units, LAST), there)
        _store(y, value, mean, rstd, a, b, lane, column, mask, STRIDE, SILU)
    else:
        if STATISTICS:
            # One launch: every program of the slab takes all of its statistics. Two: its own share, merged by the next.
            from_row = 0 if OUTPUT else first
            to_row = rows if OUTPUT else end
            mean, m2 = _looped_statistics(
                x, add, pivot, column, from_row, to_row, units, STRIDE, LIVE, COLUMNS, ROWS, TOGETHER, LAST
            )
        else:
            partials += slab.to(tl.int64) * TOGETHER * splits * 2
            mean, m2 = _merged_partials(partials, column, rows, share, splits, LIVE, COLUMNS, TOGETHER, SPLITS)
        if OUTPUT:
            rstd = tl.rsqrt(m2 / size + eps)
            if LAST:
                a, b = _modulation(weight, bias, scale, shift, column, column < LIVE)
            # Read again, from the cache where it is still there.
            for begin in range(first, end, ROWS):
                row = begin + lane
                value, mask = _load(x, add, pivot, row, column, end, units, STRIDE, LIVE, COLUMNS, LAST)
                if not LAST:
                    a, b = _modulation(weight, bias, scale, shift, row // units, row < end)
                _store(y, value, mean, rstd, a, b, row, column, mask, STRIDE, SILU)
        else:
            partials += slab.to(tl.int64) * TOGETHER * splits * 2
            at = 2 * split
            if TOGETHER > 1:
                at += column // (LIVE // TOGETHER) * splits * 2
                # All columns of a group hold its statistics; the first of them writes.
                own = (column < LIVE) & (column % (LIVE // TOGETHER) == 0)
                tl.store(partials + at, mean, mask=own)
                tl.store(partials + at + 1, m2, mask=own)
            else:
                tl.store(partials + at, mean)
                tl.store(partials + at + 1, m2)


KERNELS = {"group_norm": group_norm_kernel}
INTERPRETED = not isinstance(group_norm_kernel, triton.JITFunction)


def run(
    x: Tensor,  # [B, C, ...]
    groups: int,
    weight: Tensor | None,  # [C]
    bias: Tensor | None,  # [C]
    eps: float,
    add: Tensor | None,  # [B, C]
    scale: Tensor | None,  # [B, C]
    shift: Tensor | None,  # [B, C]
    act: str,
) -> Tensor:
    """`reference.group_norm`, in x's layout."""
    memory_format = layout_of(x)
    last = memory_format != torch.contiguous_format and x.shape[1] // groups <= MAX_COLUMNS
    x = x.contiguous(memory_format=memory_format if last else torch.contiguous_format)
    y = torch.empty_like(x)
    if x.numel() == 0:
        return y
    plan = plan_of(x, groups, last)
    weight, bias, add, scale, shift = (_dense(values) for values in (weight, bias, add, scale, shift))
    given = (weight, bias, add, scale, shift, *(0 if v is None else v.stride(0) for v in (add, scale, shift)), eps)
    sizes = (plan.rows, plan.units, plan.blocks, x.shape[1] // plan.blocks, plan.share, plan.splits)
    partials = None
    if plan.twice:
        partials = torch.empty((len(x) * groups, plan.splits, 2), dtype=torch.float32, device=x.device)
    launch = KERNELS["group_norm"][(plan.programs,)]
    with on_device(x):
        for statistics, output in ((True, False), (False, True)) if plan.twice else ((True, True),):
            launch(
                x, y, partials, *given, *sizes,
                STATISTICS=statistics, OUTPUT=output, SILU=act == "silu", num_warps=plan.warps, **plan.constants,
            )  # fmt: skip
    return y


def _dense(values: Tensor | None) -> Tensor | None:
    """Values whose neighbours along the channels are neighbours in memory."""
    return values if values is None or values.stride(-1) == 1 or values.shape[-1] == 1 else values.contiguous()


def refuse(case: CallSpec) -> str | None:
    """Why Triton cannot serve the case."""
    if case.dtype == torch.float64:
        return "serves float32, float16 and bfloat16, not torch.float64"
    if case.device == "cuda" or INTERPRETED:
        return None
    return f"Triton serves CUDA and ROCm devices, not {case.device}"


IMPLEMENTS = {"group_norm": Implementation(run, refuse)}
