"""solver_step with a row for each sample in plain torch: the numbers of a row are tensors [B], and no value is read.

Sample by sample it is `reference.solver_step`, to the bit. What a sample does not read is masked, not multiplied by 0.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ..plans.table import MAX_HISTORY, MAX_NOISE, OFFSET, WIDTH
from .call_spec import Implementation
from .philox import normal
from .reference import compute_dtype, weighted_sum
from .row_table import BASE, BASE_OUT, D_OUT, HISTORY, X_OUT, X, find_error


class Rows:
    """The numbers of each sample's row: `rows[name, k]` is [B, 1, ...] in the compute dtype of x."""

    def __init__(self, numbers: Tensor, x: Tensor) -> None:
        self._numbers, self._shape, self._dtype = numbers, (-1, *[1] * (x.ndim - 1)), compute_dtype(x.dtype)

    def exact(self, name: str, k: int = 0) -> Tensor:
        """[B] float64."""
        return self._numbers[:, OFFSET[name] + k]

    def of(self, name: str, k: int = 0) -> Tensor:
        """The same in the compute dtype, shaped to go with x."""
        return self.per_sample(self.exact(name, k))

    def per_sample(self, values: Tensor) -> Tensor:
        """Any [B] numbers so."""
        return values.to(self._dtype).view(self._shape)


def solver_step_rows(
    numbers: Tensor,  # [B, WIDTH] each sample's row
    x: Tensor,  # [B, ...]
    base: Tensor,  # [B, ...]
    m: Tensor | None,  # [B, ...]
    m_uncond: Tensor | None,  # [B, ...]
    history: Sequence[Tensor],  # H_1, H_2, ... each [B, ...]
    guidance: Tensor | None,  # [B], NaN: none
    threshold: Tensor | None,  # [B]
    seeds: Tensor | None,  # [B]
    others: Sequence[Tensor | None] = (),
    state: Tensor | None = None,
    weights: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """x', base' and the history's new D, each [B, ...] in the compute dtype."""
    rows, dtype = Rows(numbers, x), compute_dtype(x.dtype)
    if weights is not None:
        made: list[Tensor | None] = [weighted_sum(w, x, m, m_uncond, others, state) for w in weights.unbind(1)[:2]]
    elif m is None or m_uncond is None:
        made = [m]
    else:
        made = [_guided(rows, m.to(dtype), m_uncond.to(dtype), guidance)]
    zero = torch.zeros_like(x, dtype=dtype)
    converted = [_limited(rows, _combine(zero, [(rows.of("p_x"), x), (rows.of("p_m"), y)]), threshold) for y in made]
    xi = [_noise(rows, j, x, seeds) for j in range(MAX_NOISE)]
    outputs = []
    for line in ("a", "b"):
        terms: list[tuple[Tensor, Tensor | None]] = [(rows.of(f"{line}_base"), base), (rows.of(f"{line}_x"), x)]
        terms += [(rows.of(line.upper(), k), h) for k, h in enumerate((converted[0], *history))]
        terms += [(rows.of(f"xi_{line}", j), value) for j, value in enumerate(xi)]
        outputs.append(_combine(zero, terms))
    return outputs[0], outputs[1], converted[-1]


def _guided(rows: Rows, m: Tensor, m_uncond: Tensor, guidance: Tensor | None) -> Tensor:
    g = rows.of("guidance") if guidance is None else rows.per_sample(guidance)
    none = g.isnan()
    return torch.where(none, m, m_uncond + torch.where(none, 0.0, g) * (m - m_uncond))  # NaN would be in gradients


def _limited(rows: Rows, d: Tensor, threshold: Tensor | None) -> Tensor:
    clamp = rows.of("clamp")
    d = torch.minimum(torch.maximum(d, -clamp), clamp)
    if threshold is None:
        return d
    limit = rows.per_sample(threshold)
    return torch.minimum(torch.maximum(d, -limit), limit) / limit


def _combine(zero: Tensor, terms: Sequence[tuple[Tensor, Tensor | None]]) -> Tensor:
    """Sum of weight * tensor over the non-zero weights of each sample."""
    total = zero
    for weight, tensor in terms:
        if tensor is not None:
            total = torch.where(weight != 0, total + weight * tensor.to(zero.dtype), total)
    return total


def _noise(rows: Rows, j: int, x: Tensor, seeds: Tensor | None) -> Tensor | None:
    if seeds is None:
        return None
    index = rows.exact("noise", j).long()
    return normal(seeds, index, x.shape[1:].numel(), compute_dtype(x.dtype)).view(x.shape)


def run_solver_step_rows(
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
    """Row `rows[b]` of `table` on sample b of `buffers`: the contract of every `solver_step_rows` backend.

    table: [R, RECORD] float64 (see `row_table`). rows: [B] int64; of a sample whose row is negative nothing is read or
    written. buffers: up to MAX_BUFFERS tensors [B, ...] of one dtype and one layout; sample b of a record r reads
    buffers[r.x][b] and so on, and writes buffers[r.x_out][b], base_out and d_out where they are not absent.
    guidance: NaN for a sample without: m_uncond is not read for it. The other arguments, and which outputs may be the
    memory of an input, are as in `reference.run_solver_step`; table and rows are on the tensors' device.
    On the CPU a row beyond the table, and a record that cannot be run, raise ValueError before anything is written. On
    a device nobody looks (`RowTable` did when it was written): such a sample's outputs are undefined.
    """
    x = buffers[0]
    if not x.numel():
        return
    _check_records(table, rows, buffers, seeds, weights)
    active = rows >= 0
    records = table[rows.clamp(0, len(table) - 1)]
    slots = records[:, WIDTH:].long()
    pool, samples = torch.stack(list(buffers)), torch.arange(len(x), device=x.device)
    read = [pool[slots[:, k].clamp(0, len(buffers) - 1), samples] for k in range(HISTORY + MAX_HISTORY - 1)]
    new_x, new_base, d = solver_step_rows(
        records[:, :WIDTH], read[X], read[BASE], m, m_uncond, read[HISTORY:], guidance, threshold, seeds, others,
        state, weights,
    )  # fmt: skip
    for slot, result in ((X_OUT, new_x), (BASE_OUT, new_base), (D_OUT, d)):
        for number, buffer in enumerate(buffers):
            _write(buffer, result, active & (slots[:, slot] == number))
    if out_input is not None:
        scaled = Rows(records, x).of("c_in") * new_x
        for copy in out_input.split(len(x)):
            _write(copy, scaled, active)
    if out_state is not None:
        assert weights is not None
        _write(out_state, weighted_sum(weights[:, 2], read[X], m, m_uncond, others, state), active)


def _write(to: Tensor, values: Tensor, samples: Tensor) -> None:
    """Only these samples, [B] bool."""
    to.copy_(torch.where(samples.view(-1, *[1] * (to.ndim - 1)), values.to(to.dtype), to))


def _check_records(
    table: Tensor, rows: Tensor, buffers: Sequence[Tensor], seeds: Tensor | None, weights: Tensor | None
) -> None:
    """On the CPU; a device would have to be waited for."""
    if table.device.type != "cpu":
        return
    taken = rows.numpy()
    beyond = np.flatnonzero(taken >= len(table))
    if beyond.size:
        raise ValueError(f"rows: sample {beyond[0]} is at row {taken[beyond[0]]} of {len(table)}")
    taken = taken[taken >= 0]
    records = table.detach().numpy()[taken]
    wrong = find_error(records, buffers=len(buffers), seeds=seeds is not None, weights=weights is not None)
    if wrong is not None:
        raise ValueError(f"table: row {taken[wrong[0]]}: {wrong[1]}")


IMPLEMENTS = {"solver_step_rows": Implementation(run_solver_step_rows)}
