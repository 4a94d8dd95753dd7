"""solver_step: one coefficient row of any linear diffusion solver in one pass over memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ...plans.table import FIELDS, MAX_HISTORY, MAX_NOISE, ROW, WIDTH, empty_table, flat_row, reads_history, reads_noise
from .. import checks, reference, registry
from ..layout import empty_input
from ..torch_library import register

__all__ = ["StepResult", "make_row", "solver_step"]

MAX_OTHERS = 2
MAX_SETS = 3
COLUMNS = 6  # of weights
MAX_COPIES = 4


class StepResult(NamedTuple):
    """What one row produced. `base`, `model_input` and `state` are None unless asked for."""

    x: Tensor  # [B, ...] the next point, x's dtype
    converted: Tensor  # [B, ...] D, the converted model output, x's dtype
    base: Tensor | None  # [B, ...] the next base, x's dtype
    model_input: Tensor | None  # [copies * B, ...] c_in x' in the dtype asked for
    state: Tensor | None = None  # [B, ...] the next state, x's dtype


class _Call(NamedTuple):
    """The arguments of the op in torch's dispatcher."""

    x: Tensor
    m: Tensor
    row: Sequence[float]
    base: Tensor | None
    history: Sequence[Tensor]
    m_uncond: Tensor | None
    guidance: Tensor | None
    threshold: Tensor | None
    seeds: Tensor | None
    write_base: bool
    input_dtype: torch.dtype | None
    copies: int
    others: Sequence[Tensor]
    state: Tensor | None
    weights: Tensor | None
    write_state: bool


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
    others: Sequence[Tensor] = (),
    state: Tensor | None = None,
    weights: Tensor | None = None,
    write_state: bool = False,
) -> StepResult:
    """Apply one coefficient row (the formula stands in `fastdiff.plans.table`).

    `solver_step_rows` is the same with a row of its own for each sample.

    x: [B, ...], the point where the model was evaluated; float32, float64, float16 or bfloat16, any strides.
    m: [B, ...], the model's output there (the conditional one under guidance), any of these dtypes.
    row: the numbers of one `ROW` record, from `make_row` or `flat_row(table[i])`.
    base: [B, ...], the last accepted state; x where not given.
    history: H_1, H_2, ... each [B, ...], newest first; as many as the row reads.
    m_uncond: [B, ...], the unconditional output; turns guidance on.
    guidance: [B] float64, per-sample guidance scale; the row's number where not given.
    threshold: [B] float64, positive: D is clamped to +-threshold and divided by it (dynamic thresholding).
    seeds: [B] int64, each sample's own seed; needed where the row draws noise.
    write_base: also return base'. input_dtype: also return c_in x' in this dtype, `copies` (1 to 4) times over.
    weights: [B, S, 6] float64, in place of guidance: what each sample's m, m_uncond, second and third output, x and
        state count for. S = 1; or 2, where the second set makes the D that is returned; or 3, where the third makes the
        next state.
    others: the second and the third output, each [B, ...]. state: [B, ...], what is kept from step to step. Read only
        with weights. write_state: also return the next state.

    Computed in float64 for float64 x, in float32 otherwise. Differentiable with respect to all floating-point tensors.
    Raises TypeError or ValueError naming the argument.
    """
    call = _Call(
        x, m, list(row), base, list(history), m_uncond, guidance, threshold, seeds, write_base, input_dtype, copies,
        list(others), state, weights, write_state,
    )  # fmt: skip
    _check(call)
    return result_of(call, torch.ops.fastdiff.solver_step(*call))


def result_of(call: Any, outputs: Outputs) -> StepResult:
    """What the op returned for a `_Call`, or one of `solver_step_rows`, without what was not asked for."""
    new_x, new_base, converted, model_input, new_state = outputs
    return StepResult(
        new_x,
        converted,
        new_base if call.write_base else None,
        model_input if call.input_dtype is not None else None,
        new_state if call.write_state else None,
    )


def _check(call: _Call) -> None:
    check_operands(call)
    if len(call.row) != WIDTH:
        raise ValueError(f"row: expected {WIDTH} numbers (see make_row), got {len(call.row)}")


def check_operands(call: Any) -> None:
    """Raises TypeError or ValueError where anything but the row is wrong in a `_Call`, or one of `solver_step_rows`."""
    x = call.x
    checks.require_float("x", x)
    if x.ndim == 0:
        raise ValueError("x: expected at least one dimension, the batch, got a scalar")
    optional = {"base": call.base, "m_uncond": call.m_uncond, "state": call.state}
    given = {"m": call.m, **{name: tensor for name, tensor in optional.items() if tensor is not None}}
    given |= {f"history[{k}]": h for k, h in enumerate(call.history)}
    given |= {f"others[{k}]": m for k, m in enumerate(call.others)}
    for name, tensor in given.items():
        checks.require_float(name, tensor)
        checks.require_shape(name, tensor, x.shape)
        checks.require_device(name, tensor, x)
    for name, values, dtype in (
        ("guidance", call.guidance, torch.float64),
        ("threshold", call.threshold, torch.float64),
        ("seeds", call.seeds, torch.int64),
    ):
        if values is not None:
            checks.require_shape(name, values, (len(x),))
            checks.require_dtype(name, values, dtype)
            checks.require_device(name, values, x)
    if not 1 <= call.copies <= MAX_COPIES:
        raise ValueError(f"copies: expected 1 to {MAX_COPIES}, got {call.copies}")
    if len(call.history) >= MAX_HISTORY:
        raise ValueError(f"history: expected at most {MAX_HISTORY - 1} entries, got {len(call.history)}")
    if call.guidance is not None and call.m_uncond is None:
        raise ValueError("guidance: expected m_uncond beside it, got none")
    _check_weights(call)


def _check_weights(call: Any) -> None:
    weights, batch = call.weights, len(call.x)
    if weights is None:
        for name, given in (
            ("others", call.others),
            ("state", call.state is not None),
            ("write_state", call.write_state),
        ):
            if given:
                raise ValueError(f"{name}: expected weights beside it, got none")
        return
    checks.require_tensor("weights", weights)
    if weights.ndim != 3 or weights.shape[0] != batch or weights.shape[2] != COLUMNS:
        raise ValueError(f"weights: expected shape ({batch}, S, {COLUMNS}), got {tuple(weights.shape)}")
    sets = weights.shape[1]
    if not 1 <= sets <= MAX_SETS:
        raise ValueError(f"weights: expected 1 to {MAX_SETS} sets, got {sets}")
    checks.require_dtype("weights", weights, torch.float64)
    checks.require_device("weights", weights, call.x)
    if call.guidance is not None:
        raise ValueError("weights: expected no guidance beside them, got both")
    if len(call.others) > MAX_OTHERS:
        raise ValueError(f"others: expected at most {MAX_OTHERS} outputs, got {len(call.others)}")
    if call.write_state and sets != MAX_SETS:
        raise ValueError(f"write_state: expected {MAX_SETS} sets of weights, got {sets}")


def _check_row(row: np.void, history: Sequence[Tensor], seeds: Tensor | None) -> None:
    """What the row reads must be there. Done in the op: its numbers are opaque while torch.compile traces."""
    needed = max((k for k in range(MAX_HISTORY) if reads_history(row, k)), default=0)
    if len(history) < needed:
        raise ValueError(f"history: expected at least {needed} entries for this row, got {len(history)}")
    if seeds is None and any(reads_noise(row, j) for j in range(MAX_NOISE)):
        raise ValueError("seeds: expected one seed a sample, [B] int64, because this row draws noise; got None")


def _table(numbers: Sequence[float]) -> np.ndarray:
    return np.array(numbers, dtype=np.float64).view(ROW)


Outputs = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]  # x', base', D, model input, state; empty where not asked for


def _run(*arguments: Any) -> Outputs:
    call = _Call(*arguments)
    x = call.x
    outputs = _meta(*arguments)
    out_x, out_base, out_d, out_input, out_state = outputs
    table = _table(call.row)
    _check_row(table[0], call.history, call.seeds)
    run = registry.choose("solver_step", registry.CallSpec(x.device.type, x.dtype, tuple(x.shape)))
    weighted: tuple[Any, ...] = ()
    if call.weights is not None:
        weighted = (call.others, call.state, call.weights, out_state if call.write_state else None)
    run(
        table, 0, x, x if call.base is None else call.base, call.m, call.m_uncond, call.history,
        call.guidance, call.threshold, call.seeds, out_x, out_base if call.write_base else None, out_d,
        out_input if call.input_dtype is not None else None, *weighted,
    )  # fmt: skip
    return outputs


def _meta(*arguments: Any) -> Outputs:
    call = _Call(*arguments)

    def like_x(wanted: bool) -> Tensor:
        return torch.empty_like(call.x) if wanted else call.x.new_empty(0)

    model_input = call.x.new_empty(0)
    if call.input_dtype is not None:
        model_input = empty_input(call.x, call.copies, call.input_dtype)
    return like_x(True), like_x(call.write_base), like_x(True), model_input, like_x(call.write_state)


def _formula(*arguments: Any) -> Outputs:
    call = _Call(*arguments)
    x, record, nothing = call.x, _table(call.row)[0], call.x.new_empty(0)
    new_x, new_base, d = reference.solver_step(
        record, x, x if call.base is None else call.base, call.m, call.m_uncond, call.history, call.guidance,
        call.threshold, call.seeds, call.others, call.state, call.weights,
    )  # fmt: skip
    new_x, new_base, d = (t.to(x.dtype) for t in (new_x, new_base, d))
    model_input = new_state = nothing
    if call.input_dtype is not None:
        scaled = float(record["c_in"]) * new_x
        model_input = scaled.to(call.input_dtype).repeat(call.copies, *[1] * (x.ndim - 1))
    if call.write_state:
        assert call.weights is not None  # as the public op checks
        third = call.weights[:, 2]
        new_state = reference.weighted_sum(third, x, call.m, call.m_uncond, call.others, call.state).to(x.dtype)
    return new_x, new_base if call.write_base else nothing, d, model_input, new_state


register(
    f"solver_step(Tensor x, Tensor m, float[{WIDTH}] row, Tensor? base, Tensor[] history, Tensor? m_uncond,"
    " Tensor? guidance, Tensor? threshold, Tensor? seeds, bool write_base, ScalarType? input_dtype, int copies,"
    " Tensor[] others, Tensor? state, Tensor? weights, bool write_state) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    _run,
    _meta,
    _formula,
)
