"""gram: the inner products of combinations of tensors, sample by sample, from one reading of the tensors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from .. import checks, reference, registry
from ..torch_library import register

MAX_TENSORS = 6
MAX_VECTORS = 4


def gram(tensors: Sequence[Tensor | None], basis: Sequence[Sequence[float]] | np.ndarray | Tensor) -> Tensor:
    """G_ij = <v_i, v_j> of v_i = sum_j basis_ij t_j, i < n, and of v_n = 1, over the elements of each sample.

    tensors: t_0, t_1, ..., up to 6 of one shape [B, ...], float32, float64, float16 or bfloat16 in any mix and with any
        strides; None where the column of basis is zero.
    basis: [n, k] numbers for k tensors, n <= 4; as a float64 tensor it may lie on the tensors' device, where it is read
        without a wait. There the number that multiplies a None is not looked at.
    Returns [B, n + 1, n + 1] float64. Its last row is the sums of the v_i, and the number of elements.

    Differences are formed element by element, so that <c - u, c - u> keeps its digits where c is close to u. A tensor
    is not multiplied by a basis of 0, and not read where its column is zero. The v_i and their products are float32,
    float64 if a tensor is float64; the products are summed in float64 over short stretches in a fixed order, so that a
    sample's result does not depend on the batch. Differentiable in the tensors.
    Raises TypeError or ValueError naming the argument.

    >>> cond, uncond = torch.randn(2, 4, 64, 64), torch.randn(2, 4, 64, 64)
    >>> gram([cond, uncond], [[1, -1], [1, 0]]).shape  # of cond - uncond, cond and 1
    torch.Size([2, 3, 3])
    """
    # An op's list of tensors has no room for None: those that are given, and their columns.
    columns = [j for j, t in enumerate(tensors) if t is not None]
    given = [t for t in tensors if t is not None]
    _check(tensors, given)
    return _call(given, columns, _basis(basis, len(tensors), given[0]))


def _check(tensors: Sequence[Tensor | None], given: list[Tensor]) -> None:
    if not 1 <= len(tensors) <= MAX_TENSORS:
        raise ValueError(f"tensors: expected 1 to {MAX_TENSORS}, got {len(tensors)}")
    if not given:
        raise ValueError("tensors: expected at least one that is not None")
    first = given[0]
    for j, t in enumerate(tensors):
        if t is not None:
            checks.require_float(f"tensors[{j}]", t)
            checks.require_shape(f"tensors[{j}]", t, first.shape)
            checks.require_device(f"tensors[{j}]", t, first)
    if first.ndim == 0:
        raise ValueError("tensors: expected at least one dimension, the batch, got a scalar")


def _basis(basis: Sequence[Sequence[float]] | np.ndarray | Tensor, count: int, like: Tensor) -> Tensor:
    """[n, count] float64."""
    if not isinstance(basis, Tensor):
        basis = torch.as_tensor(basis, dtype=torch.float64)
    elif basis.device.type != "cpu":
        checks.require_device("basis", basis, like)
    checks.require_dtype("basis", basis, torch.float64)
    if basis.ndim != 2 or not 1 <= len(basis) <= MAX_VECTORS or basis.shape[1] != count:
        expected = f"[n, {count}] with n from 1 to {MAX_VECTORS}"
        raise ValueError(f"basis: expected shape {expected}, got {tuple(basis.shape)}")
    return basis


def _run(given: list[Tensor], columns: list[int], basis: Tensor) -> Tensor:
    first = given[0]
    tensors = _with_absent(given, columns, basis)
    if basis.device.type == "cpu" and len(given) < len(tensors):
        _check_absent(tensors, basis)
    out = _meta(given, columns, basis)
    run = registry.choose("gram", registry.CallSpec(first.device.type, first.dtype, tuple(first.shape)))
    run(basis, tensors, out)
    return out


def _with_absent(given: list[Tensor], columns: list[int], basis: Tensor) -> list[Tensor | None]:
    """A tensor or None for each column."""
    tensors: list[Tensor | None] = [None] * basis.shape[1]
    for j, t in zip(columns, given, strict=True):
        tensors[j] = t
    return tensors


def _check_absent(tensors: list[Tensor | None], basis: Tensor) -> None:
    """Done in the op: the basis's numbers are opaque while torch.compile traces."""
    for j, t in enumerate(tensors):
        if t is None and basis[:, j].any():
            raise ValueError(f"tensors[{j}]: expected a tensor, because column {j} of basis is not zero, got None")


def _meta(given: list[Tensor], columns: list[int], basis: Tensor) -> Tensor:
    size = basis.shape[0] + 1
    return given[0].new_empty((given[0].shape[0], size, size), dtype=torch.float64)


def _formula(given: list[Tensor], columns: list[int], basis: Tensor) -> Tensor:
    return reference.gram(basis, _with_absent(given, columns, basis))


_call = register("gram(Tensor[] tensors, int[] columns, Tensor basis) -> Tensor", _run, _meta, _formula)
