"""solver_step: one coefficient row of any linear diffusion solver in one pass over memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ...plans.table import FIELDS, MAX_HISTORY, MAX_NOISE, ROW, WIDTH, empty_table, flat_row, reads_history, reads_noise
from .. import checks, reference, registry
from ..layout import empty_input
from ..torch_library import register

__all__ = ["StepResult", "make_row", "solver_step"]


class StepResult(NamedTuple):
    """What one row produced. `base` and `model_input` are None unless asked for."""

    x: Tensor  # [B, ...] the next point, x's dtype
    converted: Tensor  # [B, ...] D, the converted model output, x's dtype
    base: Tensor | None  # [B, ...] the next base, x's dtype
    model_input: Tensor | None  # [copies * B, ...] c_in x' in the dtype asked for


def make_row(**fields: float | Sequence[float]) -> list[float]:
    """One row from named fields of `fastdiff.plans.table.ROW`, flat; lists may be shorter than the field.

    >>> euler = make_row(p_x=1.0, p_m=-0.5, a_x=0.8, A=[0.2])
    """
    table = empty_table(1)
    for name, value in fields.items():
        if name not in FIELDS:
            raise ValueError(f"make_row: expected a field of {', '.join(FIELDS)}, got {name!r}")
        if isinstance(value, Sequence) or np.ndim(value):
            table[name][0, : np.size(value)] = value
        else:
            table[name][0] = value
    return flat_row(table[0])


def solver_step(
    x: Tensor,
    m: Tensor,
    row: Sequence[float],
    *,
    base: Tensor | None = None,
    history: Sequence[Tensor] = (),
    m_uncond: Tensor | None = None,
    guidance: Tensor | None = None,
    threshold: Tensor | None = None,
    seeds: Tensor | None = None,
    write_base: bool = False,
    input_dtype: torch.dtype | None = None,
    copies: int = 1,
) -> StepResult:
    """Apply one coefficient row (the formula stands in `fastdiff.plans.table`).

    x: [B, ...], the point where the model was evaluated; float32, float64, float16 or bfloat16, any strides.
    m: [B, ...], the model's output there (the conditional one under guidance), any of these dtypes.
    row: the numbers of one `ROW` record, from `make_row` or `flat_row(table[i])`.
    base: [B, ...], the last accepted state; x where not given.
    history: H_1, H_2, ... each [B, ...], newest first; as many as the row reads.
    m_uncond: [B, ...], the unconditional output; turns guidance on.
    guidance: [B] float64, per-sample guidance scale; the row's number where not given.
    threshold: [B] float64, positive: D is clamped to +-threshold and divided by it (dynamic thresholding).
    seeds: [B] int64, each sample's own seed; needed where the row draws noise.
    write_base: also return base'. input_dtype: also return c_in x' in this dtype, `copies` (1 or 2) times over.

    Computed in float64 for float64 x, in float32 otherwise. Differentiable with respect to all floating-point tensors.
    Raises TypeError or ValueError naming the argument.
    """
    _check(x, m, row, base, history, m_uncond, guidance, threshold, seeds, copies)
    new_x, new_base, converted, model_input = torch.ops.fastdiff.solver_step(
        x, m, list(row), base, list(history), m_uncond, guidance, threshold, seeds, write_base, input_dtype, copies
    )  # fmt: skip
    return StepResult(
        new_x, converted, new_base if write_base else None, model_input if input_dtype is not None else None
    )


def _check(
    x: Tensor,
    m: Tensor,
    row: Sequence[float],
    base: Tensor | None,
    history: Sequence[Tensor],
    m_uncond: Tensor | None,
    guidance: Tensor | None,
    threshold: Tensor | None,
    seeds: Tensor | None,
    copies: int,
) -> None:
    checks.require_float("x", x)
    if x.ndim == 0:
        raise ValueError("x: expected at least one dimension, the batch, got a scalar")
    if len(row) != WIDTH:
        raise ValueError(f"row: expected {WIDTH} numbers (see make_row), got {len(row)}")
    optional = {"base": base, "m_uncond": m_uncond}
    given = {"m": m, **{name: tensor for name, tensor in optional.items() if tensor is not None}}
    for name, tensor in (given | {f"history[{k}]": h for k, h in enumerate(history)}).items():
        checks.require_float(name, tensor)
        checks.require_shape(name, tensor, x.shape)
        checks.require_device(name, tensor, x)
    for name, values, dtype in (
        ("guidance", guidance, torch.float64),
        ("threshold", threshold, torch.float64),
        ("seeds", seeds, torch.int64),
    ):
        if values is not None:
            checks.require_shape(name, values, (len(x),))
            checks.require_dtype(name, values, dtype)
            checks.require_device(name, values, x)
    if copies not in (1, 2):
        raise ValueError(f"copies: expected 1 or 2, got {copies}")
    if len(history) >= MAX_HISTORY:
        raise ValueError(f"history: expected at most {MAX_HISTORY - 1} entries, got {len(history)}")
    if guidance is not None and m_uncond is None:
        raise ValueError("guidance: expected m_uncond beside it, got none")


def _check_row(row: np.void, history: Sequence[Tensor], seeds: Tensor | None) -> None:
    """What the row reads must be there. Done in the op: its numbers are opaque while torch.compile traces."""
    needed = max((k for k in range(MAX_HISTORY) if reads_history(row, k)), default=0)
    if len(history) < needed:
        raise ValueError(f"history: expected at least {needed} entries for this row, got {len(history)}")
    if seeds is None and any(reads_noise(row, j) for j in range(MAX_NOISE)):
        raise ValueError("seeds: expected one seed a sample, [B] int64, because this row draws noise; got None")


def _table(numbers: Sequence[float]) -> np.ndarray:
    return np.array(numbers, dtype=np.float64).view(ROW)


def _run(
    x: Tensor,
    m: Tensor,
    row: Sequence[float],
    base: Tensor | None,
    history: Sequence[Tensor],
    m_uncond: Tensor | None,
    guidance: Tensor | None,
    threshold: Tensor | None,
    seeds: Tensor | None,
    write_base: bool,
    input_dtype: torch.dtype | None,
    copies: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    outputs = _meta(x, m, row, base, history, m_uncond, guidance, threshold, seeds, write_base, input_dtype, copies)
    out_x, out_base, out_d, out_input = outputs
    table = _table(row)
    _check_row(table[0], history, seeds)
    run = registry.choose("solver_step", registry.CallSpec(x.device.type, x.dtype, tuple(x.shape)))
    run(
        table, 0, x, x if base is None else base, m, m_uncond, history, guidance, threshold, seeds,
        out_x, out_base if write_base else None, out_d, out_input if input_dtype is not None else None,
    )  # fmt: skip
    return outputs


def _meta(
    x: Tensor,
    m: Tensor,
    row: Sequence[float],
    base: Tensor | None,
    history: Sequence[Tensor],
    m_uncond: Tensor | None,
    guidance: Tensor | None,
    threshold: Tensor | None,
    seeds: Tensor | None,
    write_base: bool,
    input_dtype: torch.dtype | None,
    copies: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    def like(wanted: bool) -> Tensor:
        return torch.empty_like(x) if wanted else x.new_empty(0)

    model_input = x.new_empty(0) if input_dtype is None else empty_input(x, copies, input_dtype)
    return like(True), like(write_base), like(True), model_input


def _formula(
    x: Tensor,
    m: Tensor,
    row: Sequence[float],
    base: Tensor | None,
    history: Sequence[Tensor],
    m_uncond: Tensor | None,
    guidance: Tensor | None,
    threshold: Tensor | None,
    seeds: Tensor | None,
    write_base: bool,
    input_dtype: torch.dtype | None,
    copies: int,
) -> tuple[Tensor, ...]:
    record = _table(row)[0]
    new_x, new_base, d = reference.solver_step(
        record, x, x if base is None else base, m, m_uncond, history, guidance, threshold, seeds
    )
    new_x, new_base, d = (t.to(x.dtype) for t in (new_x, new_base, d))
    model_input = x.new_empty(0)
    if input_dtype is not None:
        model_input = (float(record["c_in"]) * new_x).to(input_dtype).repeat(copies, *[1] * (x.ndim - 1))
    return new_x, new_base if write_base else x.new_empty(0), d, model_input


register(
    f"solver_step(Tensor x, Tensor m, float[{WIDTH}] row, Tensor? base, Tensor[] history, Tensor? m_uncond,"
    " Tensor? guidance, Tensor? threshold, Tensor? seeds, bool write_base, ScalarType? input_dtype, int copies)"
    " -> (Tensor, Tensor, Tensor, Tensor)",
    _run,
    _meta,
    _formula,
)
