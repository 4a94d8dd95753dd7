"""gram in Triton, for NVIDIA and AMD: two launches, no atomics. The first leaves the products of each part of a sample,
the second adds up the parts.

Only the structure of a basis is compiled in: which of its numbers are not zero. The numbers are run-time arguments, as
in `solver_step`, or are read from the device, where any of them may be zero.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..call_spec import CallSpec, Implementation
from .elements import TYPES, WARPS, offset, parameters, weight, with_weights
from .layout import Layout, conform, joint_layout, on_device, same_layout

BLOCK = 1024  # elements that a program takes at once
TILES = 4  # as often: an element of a block's vectors sums so many products before they are added up
WIDTH = 8  # elements a thread moves at once
SUMS = 256  # parts of a sample that the second launch takes at once
MAX_TENSORS, MAX_VECTORS = 6, 4


@triton.jit
def _load(tensor, at, mask, basis, column, N: tl.constexpr, K: tl.constexpr, DTYPE: tl.constexpr):
    """The elements of a tensor; none where it is absent or its column of the basis on the device is zero."""
    value = None
    if tensor is not None:
        if basis is not None:
            used = False
            for i in tl.static_range(N):
                used = used | (tl.load(basis + i * K + column) != 0)
            mask = mask & used
        value = tl.load(tensor + at, mask=mask, other=0).to(DTYPE)
    return value


@triton.jit
def _add(vector, value, number, basis, place, DTYPE: tl.constexpr):
    """One term of a vector, if it has a weight that is not zero."""
    if value is not None:
        if basis is not None:
            read = tl.load(basis + place).to(DTYPE)
            vector = tl.where(read != 0, vector + read * value, vector)
        elif number is not None:
            vector += weight(number, DTYPE) * value
    return vector


@triton.jit
def _vector(t0, t1, t2, t3, t4, t5, w0, w1, w2, w3, w4, w5, basis, row, K: tl.constexpr, BLOCK: tl.constexpr,
            DTYPE: tl.constexpr):  # fmt: skip
    v = tl.zeros([BLOCK], DTYPE)
    v = _add(v, t0, w0, basis, row * K, DTYPE)
    v = _add(v, t1, w1, basis, row * K + 1, DTYPE)
    v = _add(v, t2, w2, basis, row * K + 2, DTYPE)
    v = _add(v, t3, w3, basis, row * K + 3, DTYPE)
    v = _add(v, t4, w4, basis, row * K + 4, DTYPE)
    return _add(v, t5, w5, basis, row * K + 5, DTYPE)


@triton.jit
def _store(partials, part, parts, total, i, j, N: tl.constexpr):
    """The sum of <v_i, v_j>, or of v_i where j is N, over the part."""
    place = i * (N + 1) - i * (i - 1) // 2 + j - i
    tl.store(partials + place * parts + part, tl.sum(total, 0).to(tl.float64))


def _gram(
    t0, t1, t2, t3, t4, t5, basis, partials,
    w00, w01, w02, w03, w04, w05, w10, w11, w12, w13, w14, w15,
    w20, w21, w22, w23, w24, w25, w30, w31, w32, w33, w34, w35,
    parts, units, size_1, size_2,
    a_b, a_0, a_1, a_2, b_b, b_0, b_1, b_2,
    N: tl.constexpr, K: tl.constexpr, SECOND: tl.constexpr, DIMS: tl.constexpr, UNIT: tl.constexpr,
    WIDE: tl.constexpr, DTYPE: tl.constexpr, BLOCK: tl.constexpr, TILES: tl.constexpr,
):  # fmt: skip
    # A part of one sample a program. SECOND has a bit for each tensor that is walked by the second set of strides.
    pid = tl.program_id(0)
    b = pid // parts
    part = pid % parts
    partials += b.to(tl.int64) * (N * (N + 3) // 2) * parts
    if WIDE:  # offsets past 2^31; 32-bit arithmetic is half the instructions and registers
        b = b.to(tl.int64)
        start = part.to(tl.int64) * (TILES * BLOCK)
    else:
        start = part * (TILES * BLOCK)
    zero = tl.zeros([BLOCK], DTYPE)
    s0, s1, s2, s3 = zero, zero, zero, zero
    g00, g01, g02, g03, g11, g12, g13, g22, g23, g33 = zero, zero, zero, zero, zero, zero, zero, zero, zero, zero
    for tile in tl.static_range(TILES):
        e = start + tile * BLOCK + tl.arange(0, BLOCK)
        mask = e < units * UNIT  # a multiple of UNIT, as the compiler sees: whole vectors are in or out
        a = offset(b, e, size_1, size_2, a_b, a_0, a_1, a_2, DIMS, UNIT)
        c = offset(b, e, size_1, size_2, b_b, b_0, b_1, b_2, DIMS, UNIT)
        x0 = _load(t0, c if SECOND & 1 else a, mask, basis, 0, N, K, DTYPE)
        x1 = _load(t1, c if SECOND & 2 else a, mask, basis, 1, N, K, DTYPE)
        x2 = _load(t2, c if SECOND & 4 else a, mask, basis, 2, N, K, DTYPE)
        x3 = _load(t3, c if SECOND & 8 else a, mask, basis, 3, N, K, DTYPE)
        x4 = _load(t4, c if SECOND & 16 else a, mask, basis, 4, N, K, DTYPE)
        x5 = _load(t5, c if SECOND & 32 else a, mask, basis, 5, N, K, DTYPE)
        v0 = _vector(x0, x1, x2, x3, x4, x5, w00, w01, w02, w03, w04, w05, basis, 0, K, BLOCK, DTYPE)
        v1, v2, v3 = v0, v0, v0
        if N > 1:
            v1 = _vector(x0, x1, x2, x3, x4, x5, w10, w11, w12, w13, w14, w15, basis, 1, K, BLOCK, DTYPE)
        if N > 2:
            v2 = _vector(x0, x1, x2, x3, x4, x5, w20, w21, w22, w23, w24, w25, basis, 2, K, BLOCK, DTYPE)
        if N > 3:
            v3 = _vector(x0, x1, x2, x3, x4, x5, w30, w31, w32, w33, w34, w35, basis, 3, K, BLOCK, DTYPE)
        s0 += v0
        g00 += v0 * v0
        if N > 1:
            s1 += v1
            g01 += v0 * v1
            g11 += v1 * v1
        if N > 2:
            s2 += v2
            g02 += v0 * v2
            g12 += v1 * v2
            g22 += v2 * v2
        if N > 3:
            s3 += v3
            g03 += v0 * v3
            g13 += v1 * v3
            g23 += v2 * v3
            g33 += v3 * v3
    _store(partials, part, parts, g00, 0, 0, N)
    _store(partials, part, parts, s0, 0, N, N)
    if N > 1:
        _store(partials, part, parts, g01, 0, 1, N)
        _store(partials, part, parts, g11, 1, 1, N)
        _store(partials, part, parts, s1, 1, N, N)
    if N > 2:
        _store(partials, part, parts, g02, 0, 2, N)
        _store(partials, part, parts, g12, 1, 2, N)
        _store(partials, part, parts, g22, 2, 2, N)
        _store(partials, part, parts, s2, 2, N, N)
    if N > 3:
        _store(partials, part, parts, g03, 0, 3, N)
        _store(partials, part, parts, g13, 1, 3, N)
        _store(partials, part, parts, g23, 2, 3, N)
        _store(partials, part, parts, g33, 3, 3, N)
        _store(partials, part, parts, s3, 3, N, N)


@triton.jit(do_not_specialize=["parts", "elements"])
def _sums(partials, out, parts, elements, N: tl.constexpr, SUMS: tl.constexpr):
    """One number of one sample's matrix, both times that it stands there."""
    PRODUCTS: tl.constexpr = N * (N + 3) // 2
    sample = tl.program_id(0).to(tl.int64) // (PRODUCTS + 1)
    place = tl.program_id(0) % (PRODUCTS + 1)
    out += sample * ((N + 1) * (N + 1))
    if place == PRODUCTS:
        tl.store(out + ((N + 1) * (N + 1) - 1), elements.to(tl.float64))
    else:
        partials += (sample * PRODUCTS + place) * parts
        lane = tl.arange(0, SUMS)
        total = tl.zeros([SUMS], tl.float64)
        for first in range(0, parts, SUMS):
            total += tl.load(partials + first + lane, mask=first + lane < parts, other=0)
        i = 0
        begin = 0  # of row i
        for row in tl.static_range(1, N):
            first_place = row * (N + 1) - row * (row - 1) // 2
            begin = tl.where(place >= first_place, first_place, begin)
            i = tl.where(place >= first_place, row, i)
        j = i + place - begin
        value = tl.sum(total, 0)
        tl.store(out + (i * (N + 1) + j), value)
        tl.store(out + (j * (N + 1) + i), value)


PARAMETERS = parameters(_gram)
WEIGHTS = PARAMETERS[PARAMETERS.index("w00") : PARAMETERS.index("parts")]
OTHERS = ("parts", "units")  # not specialised on either
KERNELS = {
    torch.float32: with_weights(_gram, WEIGHTS, "fp32", OTHERS),
    torch.float64: with_weights(_gram, WEIGHTS, "int64", OTHERS),
    "sums": _sums,
}
INTERPRETED = not isinstance(_sums, triton.JITFunction)


def run(basis: Tensor, tensors: Sequence[Tensor | None], out: Tensor) -> None:
    """The contract of `reference.run_gram`."""
    if next(t for t in tensors if t is not None).numel() == 0:
        out.zero_()
        return
    n, k = basis.shape
    dtype = torch.float64 if any(t is not None and t.dtype == torch.float64 for t in tensors) else torch.float32
    numbers = None if _is_on_device(basis) else basis.tolist()
    read = [t is not None and (numbers is None or any(row[j] for row in numbers)) for j, t in enumerate(tensors)]
    operands, second, layout = _walk([t if r else None for t, r in zip(tensors, read, strict=True)], tensors)
    unit = WIDTH if layout.unit == WIDTH else 1  # of a sample alone, so that its vectors are the same in any batch
    parts = -(-layout.elements // (BLOCK * TILES))
    partials = torch.empty((layout.batch, n * (n + 3) // 2, parts), dtype=torch.float64, device=out.device)
    with on_device(out):
        if parts > 0:
            KERNELS[dtype][(layout.batch * parts,)](
                *operands, *[None] * (MAX_TENSORS - k), basis.contiguous() if numbers is None else None, partials,
                *_weights(numbers, read, dtype), parts, layout.elements // unit, *layout.inner,
                *_strides(layout, 0, unit), *_strides(layout, 1, unit),
                N=n, K=k, SECOND=second, DIMS=layout.dims, UNIT=unit, WIDE=layout.wide, DTYPE=TYPES[dtype],
                BLOCK=BLOCK, TILES=TILES, num_warps=WARPS,
            )  # fmt: skip
        KERNELS["sums"][(layout.batch * (n * (n + 3) // 2 + 1),)](
            partials, out, parts, layout.elements, N=n, SUMS=SUMS, num_warps=WARPS
        )


def _is_on_device(basis: Tensor) -> bool:
    """Whether only the device can read the basis without a wait."""
    return basis.is_cuda


def _walk(read: list[Tensor | None], given: Sequence[Tensor | None]) -> tuple[list[Tensor | None], int, Layout]:
    """The tensors so that two sets of strides serve them all, which of them have the second, and the layout."""
    there = [t for t in read if t is not None] or [t for t in given if t is not None]
    first = there[0]
    other = next((t for t in there if not same_layout(t, first.stride())), first)
    layout = joint_layout(tuple(first.shape), (first.stride(), other.stride()), per_sample=True, ordered=False)
    second = [t is not None and not same_layout(t, first.stride()) and same_layout(t, other.stride()) for t in read]
    operands = [conform(t, layout.groups[s]) for t, s in zip(read, second, strict=True)]
    return operands, sum(s << j for j, s in enumerate(second)), layout


def _strides(layout: Layout, group: int, unit: int) -> tuple[int, ...]:
    """Of the batch in units, and of three dimensions."""
    batch, *inner = layout.strides[4 * group : 4 * group + 4]
    return batch * layout.unit // unit, *inner


def _weights(numbers: list[list[float]] | None, read: list[bool], dtype: torch.dtype) -> list[float | int | None]:
    """In the order of WEIGHTS; None for zero."""

    def weight(i: int, j: int) -> float | int | None:
        if numbers is None or i >= len(numbers) or j >= len(read) or not read[j] or numbers[i][j] == 0:
            return None
        return numbers[i][j] if dtype == torch.float32 else struct.unpack("q", struct.pack("d", numbers[i][j]))[0]

    return [weight(i, j) for i in range(MAX_VECTORS) for j in range(MAX_TENSORS)]


def refuse(case: CallSpec) -> str | None:
    """Why Triton cannot serve the case."""
    if case.device == "cuda" or INTERPRETED:
        return None
    return f"Triton serves CUDA and ROCm devices, not {case.device}"


IMPLEMENTS = {"gram": Implementation(run, refuse)}
