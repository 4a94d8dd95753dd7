"""How a pass over strided tensors walks memory: neighbouring dimensions merged into as few as all operands allow."""

from __future__ import annotations

import contextlib
import functools
import math
from typing import NamedTuple

import torch
from torch import Tensor

MAX_DIMS = 3
MAX_UNIT = 8  # elements a thread moves at once
MIN_LOOP = 4096  # elements: enough to be worth a loop of their own
_Strides = tuple[int, ...]


class Layout(NamedTuple):
    """A loop over `batch` samples of `elements` elements each, counted through `dims` dimensions."""

    groups: tuple[_Strides, ...]  # the strides the operands of each group must have
    batch: int
    elements: int
    dims: int
    inner: tuple[int, int]  # sizes of the second and the third dimension
    strides: tuple[int, ...]  # for each group: the strides of the batch, in units, and of three dimensions
    copy: int  # from one copy of the last group to the next, in units
    unit: int  # what elements, the batch strides and copy are multiples of: accesses this wide are aligned
    wide: bool  # some offset does not fit 32 bits


@functools.lru_cache(maxsize=4096)
def joint_layout(
    shape: tuple[int, ...], groups: tuple[_Strides, ...], per_sample: bool, ordered: bool, copies: int = 1
) -> Layout:
    """The common layout of groups of operands, given by their strides.

    per_sample: the samples are told apart, so the batch is not merged. ordered: elements keep their logical order.
    copies: how many times the last group is written, one after the other.
    Where more than MAX_DIMS dimensions stay, the answer is the layout of contiguous operands.
    """
    dims = list(zip(shape, zip(*groups, strict=True), strict=True))
    batch, batch_strides = dims.pop(0) if per_sample else (1, (0,) * len(groups))
    if not ordered:
        dims.sort(key=lambda dim: dim[1], reverse=True)
    dims = _merge(dims)
    if not per_sample and math.prod(size for size, _ in dims[1:]) >= MIN_LOOP:
        batch, batch_strides = dims.pop(0)  # any outermost dimension will do
    if len(dims) > MAX_DIMS:
        contiguous = torch.empty(shape, device="meta").stride()
        return joint_layout(shape, (contiguous,) * len(groups), per_sample, ordered, copies)
    used = max(1, len(dims))
    dims += [(1, (0,) * len(groups))] * (MAX_DIMS - len(dims))
    sizes = [size for size, _ in dims]
    count, copy = math.prod(sizes), shape[0] * groups[-1][0]
    unit = math.gcd(count, copy, *batch_strides, MAX_UNIT)
    strides = [s for g, b in enumerate(batch_strides) for s in (b // unit, *(steps[g] for _, steps in dims))]
    reach = max(sum((size - 1) * step for size, step in zip(shape, group, strict=True)) for group in groups)
    wide = max(count, reach + (copies - 1) * copy) >= 2**31 - 2**16
    return Layout(groups, batch, count, used, (sizes[1], sizes[2]), tuple(strides), copy // unit, unit, wide)


def _merge(dims: list[tuple[int, _Strides]]) -> list[tuple[int, _Strides]]:
    """Drop dimensions of size 1; join each of the others to the one before where every operand steps through evenly."""
    merged: list[tuple[int, _Strides]] = []
    for size, strides in dims:
        if size == 1:
            continue
        if merged and all(outer == size * inner for outer, inner in zip(merged[-1][1], strides, strict=True)):
            size *= merged.pop()[0]
        merged.append((size, strides))
    return merged


def same_layout(tensor: Tensor, strides: _Strides) -> bool:
    """Whether the tensor has these strides wherever they matter."""
    found = tensor.stride()
    return found == strides or all(n == 1 or p == q for n, p, q in zip(tensor.shape, found, strides, strict=True))


def conform(tensor: Tensor | None, strides: _Strides) -> Tensor | None:
    """The tensor itself if it has these strides, else a copy that has."""
    if tensor is None or same_layout(tensor, strides):
        return tensor
    return _empty(tensor, strides).copy_(tensor)


def target(tensor: Tensor | None, strides: _Strides) -> Tensor | None:
    """Where to write an output: the tensor itself if it has these strides, else a scratch tensor to be copied over."""
    if tensor is None or same_layout(tensor, strides):
        return tensor
    return _empty(tensor, strides)


def _empty(like: Tensor, strides: _Strides) -> Tensor:
    return torch.empty_strided(like.shape, strides, dtype=like.dtype, device=like.device)


def on_device(tensor: Tensor) -> contextlib.AbstractContextManager:
    """Launch on the tensor's device. Entering a device context costs microseconds: only where it is another one."""
    if tensor.is_cuda and tensor.device.index != torch.cuda.current_device():
        return torch.cuda.device(tensor.device)
    return contextlib.nullcontext()
