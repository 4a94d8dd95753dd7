"""What kernels that walk samples element by element share: where an element lies, and how float64 weights pass."""

from __future__ import annotations

import types
from collections.abc import Callable, Sequence

import torch
import triton
import triton.language as tl

TYPES = {torch.float32: tl.float32, torch.float64: tl.float64}
WARPS = 2 if torch.version.hip else 4  # eight elements a thread: 128-bit accesses in half precision too


@triton.jit
def offset(b, e, size_1, size_2, stride_b, stride_0, stride_1, stride_2, DIMS: tl.constexpr, UNIT: tl.constexpr):
    """Where element e of sample b lies. Multiplying by UNIT tells Triton what the offset is a multiple of."""
    # Divisions by run-time sizes cost more than the arithmetic of a row; contiguous memory merges into one dimension
    # and needs none.
    if DIMS == 1:
        at = e * stride_0
    elif DIMS == 2:
        at = e // size_1 * stride_0 + e % size_1 * stride_1
    else:
        row = e // size_2
        at = row // size_1 * stride_0 + row % size_1 * stride_1 + e % size_2 * stride_2
    return b * stride_b * UNIT + at


@triton.jit
def weight(value, DTYPE: tl.constexpr):
    # Triton passes a Python float as float32: a float64 weight comes as the int64 of its bits.
    if tl.float64 == DTYPE:
        value = value.to(tl.int64).to(tl.float64, bitcast=True)
    return value


def parameters(kernel: Callable) -> tuple[str, ...]:
    """The names of a kernel's parameters."""
    return kernel.__code__.co_varnames[: kernel.__code__.co_argcount]


def with_weights(kernel: Callable, weights: Sequence[str], kind: str, others: Sequence[str]) -> triton.JITFunction:
    """The kernel with its weights declared "fp32", or "int64" for the bits of float64.

    It is a function object of the same code with annotations of its own. weights, others: the parameters that Triton
    does not specialise on.
    """
    typed = types.FunctionType(kernel.__code__, kernel.__globals__, kernel.__name__)
    typed.__annotations__ = {**kernel.__annotations__, **dict.fromkeys(weights, kind)}
    return triton.jit(typed, do_not_specialize=[*weights, *others])
