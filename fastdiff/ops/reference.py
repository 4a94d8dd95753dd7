"""The definition of right: each op in plain torch, differentiable, in float64 when its inputs are.

Half-precision inputs are computed in float32. The kernels are held to these functions.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..plans.table import MAX_NOISE, reads_noise
from .call_spec import Implementation
from .philox import normal
from .reference_tokens import run_token_stats


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """The precision an op computes in: float64 for float64, float32 for everything else."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def solver_step(
    row: np.void,
    x: Tensor,  # [B, ...]
    base: Tensor | None,  # [B, ...]
    m: Tensor | None,  # [B, ...]
    m_uncond: Tensor | None,  # [B, ...]
    history: Sequence[Tensor | None],  # H_1, H_2, ... each [B, ...]
    guidance: Tensor | None,  # [B]
    threshold: Tensor | None,  # [B]
    seeds: Tensor | None,  # [B]
    others: Sequence[Tensor | None] = (),  # m_2, m_3, each [B, ...]
    state: Tensor | None = None,  # [B, ...]
    weights: Tensor | None = None,  # [B, S, 6]; guidance is not read then
) -> tuple[Tensor, Tensor, Tensor]:
    """One row (see `fastdiff.plans.table`): x', base' and the history's new D, each [B, ...] in the compute dtype."""
    dtype = compute_dtype(x.dtype)
    made = [m]
    if weights is not None:
        made = [weighted_sum(w, x, m, m_uncond, others, state) for w in weights.unbind(1)[:2]]
        m_uncond = None
    converted = [_limited(row, converted_output(row, x, y, m_uncond, guidance), threshold) for y in made]
    d, pushed = converted[0], converted[-1]
    xi = [_noise(row, j, x, seeds, dtype) for j in range(MAX_NOISE)]
    outputs = []
    for line in ("a", "b"):
        terms: list[tuple[float, Tensor | None]] = [(row[f"{line}_base"], base), (row[f"{line}_x"], x)]
        terms += zip(row[line.upper()], (d, *history), strict=False)
        terms += zip(row[f"xi_{line}"], xi, strict=True)
        outputs.append(_combine(x, dtype, terms))
    return outputs[0], outputs[1], pushed


def weighted_sum(
    w: Tensor,  # [B, 6], of m, m_uncond, m_2, m_3, x and state
    x: Tensor,  # [B, ...]
    m: Tensor | None,  # [B, ...]
    m_uncond: Tensor | None,  # [B, ...]
    others: Sequence[Tensor | None],  # m_2, m_3, each [B, ...]
    state: Tensor | None,  # [B, ...]
) -> Tensor:
    """y of one set of weights (see `fastdiff.plans.table`) [B, ...] in x's compute dtype. What is None counts as 0."""
    dtype = compute_dtype(x.dtype)
    second, third = (*others, None, None)[:2]

    def difference(output: Tensor | None) -> Tensor | None:
        return output if output is None or m_uncond is None else output.to(dtype) - m_uncond.to(dtype)

    operands = (difference(m), m_uncond, difference(second), difference(third), x, state)
    total = torch.zeros_like(x, dtype=dtype)
    for column in (1, 4, 5, 0, 2, 3):
        value, weight = operands[column], _per_sample(w[:, column], x)
        if value is not None:
            value = value.to(dtype)
            total = total + weight * torch.where((weight != 0) | value.isfinite(), value, 0)
    return total


def _limited(row: np.void, d: Tensor, threshold: Tensor | None) -> Tensor:
    """D inside the row's clamp and each sample's threshold, by which it is divided."""
    if np.isfinite(row["clamp"]):
        d = d.clamp(-float(row["clamp"]), float(row["clamp"]))
    if threshold is not None:
        limit = _per_sample(threshold, d)
        d = torch.minimum(torch.maximum(d, -limit), limit) / limit
    return d


def converted_output(
    row: np.void, x: Tensor, m: Tensor | None, m_uncond: Tensor | None, guidance: Tensor | None
) -> Tensor:
    """D = p_x x + p_m (m_u + g (m - m_u)) [B, ...] before any limit, in the compute dtype."""
    if m is not None and m_uncond is not None:
        m = guided_output(row, x, m, m_uncond, guidance)
    return _combine(x, compute_dtype(x.dtype), [(row["p_x"], x), (row["p_m"], m)])


def guided_output(row: np.void, x: Tensor, m: Tensor, m_uncond: Tensor, guidance: Tensor | None) -> Tensor:
    """m_u + g (m - m_u) [B, ...] in the compute dtype of x."""
    dtype = compute_dtype(x.dtype)
    g = float(row["guidance"]) if guidance is None else _per_sample(guidance, x)
    return m_uncond.to(dtype) + g * (m.to(dtype) - m_uncond.to(dtype))


def _per_sample(values: Tensor, x: Tensor) -> Tensor:
    """[B] numbers, shaped to go with x, in its compute dtype."""
    return values.to(compute_dtype(x.dtype)).view(-1, *[1] * (x.ndim - 1))


def _combine(like: Tensor, dtype: torch.dtype, terms: Iterable[tuple[float, Tensor | None]]) -> Tensor:
    """Sum of weight * tensor over the non-zero weights."""
    total = torch.zeros_like(like, dtype=dtype)
    for weight, tensor in terms:
        # What has no weight is not read: it may be absent, and 0 * inf would be NaN.
        if weight != 0:
            assert tensor is not None
            total = total + float(weight) * tensor.to(dtype)
    return total


def _noise(row: np.void, j: int, x: Tensor, seeds: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    if not reads_noise(row, j):
        return None
    assert seeds is not None  # as the public op checks
    return normal(seeds, int(row["noise"][j]), x.shape[1:].numel(), dtype).view(x.shape)


def run_solver_step(
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
    """Row `i` of `table` into the given outputs: the contract of every `solver_step` backend.

    Each output is written whole, in its own dtype; `out_base`, `out_d`, `out_input` and `out_state` only where given.
    `out_input` has one to four times the batch: c_in x' is written so many times over. Outputs overlap no input, but
    on the CPU `out_x` may be the memory of one in `history` where `out_base` is not given.
    The last four arguments are given together or not at all. With weights, guidance is not read and m may be None;
    out_state wants three sets of them.
    """
    combined = (others, state, weights)
    new_x, new_base, d = solver_step(table[i], x, base, m, m_uncond, history, guidance, threshold, seeds, *combined)
    out_x.copy_(new_x)
    if out_base is not None:
        out_base.copy_(new_base)
    if out_d is not None:
        out_d.copy_(d)
    if out_input is not None:
        scaled = float(table[i]["c_in"]) * new_x
        for copy in out_input.split(len(x)) if len(x) else ():
            copy.copy_(scaled)
    if out_state is not None:
        assert weights is not None
        out_state.copy_(weighted_sum(weights[:, 2], x, m, m_uncond, others, state))


def group_norm(
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
    """act(GN(x + add) * (1 + scale) + shift) with the mean and the variance taken in two passes."""
    dtype = compute_dtype(x.dtype)
    per_channel = (-1, x.shape[1]) + (1,) * (x.ndim - 2)
    grouped = from_first(x, add, groups).reshape(len(x), groups, x.shape[1:].numel() // groups)
    centred = grouped - grouped.mean(-1, keepdim=True)
    h = (centred * torch.rsqrt(centred.square().mean(-1, keepdim=True) + eps)).view(x.shape)
    if weight is not None:
        h = h * weight.to(dtype).view(per_channel)
    if bias is not None:
        h = h + bias.to(dtype).view(per_channel)
    if scale is not None:
        h = h * (1 + scale.to(dtype).view(per_channel))
    if shift is not None:
        h = h + shift.to(dtype).view(per_channel)
    return (F.silu(h) if act == "silu" else h).to(x.dtype)


def from_first(x: Tensor, add: Tensor | None, groups: int) -> Tensor:
    """x + add [B, C, ...] less what it is at each group's first element, in the compute dtype: no mean costs digits.

    What a channel's offset loses in rounding is added after it, so that a constant x + add gives zeros.
    """
    dtype, per_channel = compute_dtype(x.dtype), (-1, x.shape[1]) + (1,) * (x.ndim - 2)
    size = x.shape[1] // groups

    def of_first(values: Tensor) -> Tensor:
        return values[:, ::size].repeat_interleave(size, dim=1)

    first = of_first(x.detach().to(dtype).flatten(2)[..., 0] if x.ndim > 2 else x.detach().to(dtype))
    if add is None:
        return x.to(dtype) - first.view(per_channel)
    add = add.to(dtype)
    pivot, rest = _sum(first, of_first(add.detach()))
    offset, lost = _sum(add, -pivot)
    return (x.to(dtype) + offset.view(per_channel)) + (lost - rest).view(per_channel)


def _sum(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """a + b as rounded and what rounding lost (Knuth 1969, 4.2.2, theorem B)."""
    total = a + b
    b_taken = total - a
    return total, (a - (total - b_taken)) + (b - b_taken)


def attention(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """softmax(q k^T scale) v in one piece; [B, H, N, D]."""
    dtype = compute_dtype(q.dtype)
    weights = torch.softmax(q.to(dtype) @ k.to(dtype).mT * scale, dim=-1)
    return (weights @ v.to(dtype)).to(q.dtype)


def gram(basis: Tensor, tensors: Sequence[Tensor | None]) -> Tensor:
    """<v_i, v_j> [B, n + 1, n + 1] in float64, of v_i = sum_j basis_ij t_j in the compute dtype and v_n = 1.

    basis: [n, k] float64, on any device: it is not read by the host. tensors: k of them, [B, ...] or None.
    """
    given = [(j, t) for j, t in enumerate(tensors) if t is not None]
    first = given[0][1]
    dtype = torch.float64 if any(t.dtype == torch.float64 for _, t in given) else torch.float32
    weights, zero = basis.detach().to(first.device), torch.zeros((), dtype=dtype, device=first.device)
    vectors = [torch.ones_like(first, dtype=torch.float64)]
    for row in reversed(weights.unbind()):
        # What has no weight is left out: 0 * inf would be NaN.
        terms = [torch.where(row[j] != 0, row[j].to(dtype) * t.to(dtype), zero) for j, t in given]
        vectors.insert(0, functools.reduce(torch.add, terms).double())
    flat = torch.stack([v.reshape(len(first), first.shape[1:].numel()) for v in vectors], dim=1)
    products = flat @ flat.mT
    return products.triu() + products.triu(1).mT  # of a symmetry that BLAS does not promise


def run_gram(basis: Tensor, tensors: Sequence[Tensor | None], out: Tensor) -> None:
    """`gram` into out [B, n + 1, n + 1] float64, contiguous: the contract of every `gram` backend.

    basis is float64, on the CPU or on the tensors' device. Tensors whose column is zero are not read.
    """
    out.copy_(gram(basis, tensors))


IMPLEMENTS = {
    "solver_step": Implementation(run_solver_step),
    "gram": Implementation(run_gram),
    "group_norm": Implementation(group_norm),
    "attention": Implementation(attention),
    "token_stats": Implementation(run_token_stats),
}
