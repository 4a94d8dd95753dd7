"""solver_step_rows: each sample at its own row of one device table, in one pass over memory."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...plans.table import WIDTH
from .. import checks, reference, reference_rows, registry
from ..layout import empty_input
from ..row_table import slot_numbers
from ..torch_library import register
from .solver_step import Outputs, StepResult, check_operands, result_of

__all__ = ["solver_step_rows"]


class _Call(NamedTuple):
    """The arguments of the op in torch's dispatcher."""

    x: Tensor
    m: Tensor
    table: Tensor
    rows: Tensor
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


def solver_step_rows(
    x: Tensor,
    m: Tensor,
    table: Tensor,
    rows: Tensor,
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
    """`solver_step` where sample b is at row `rows[b]` of `table`: samples of different plans, at different steps.

    table: [R, WIDTH] float64 on x's device, the numbers of R records of `ROW`; R >= 1.
    rows: [B] int64 on x's device. A sample whose row is negative does not move: its x' and base' are x and base, its
        next state is its state (0 where there is none), its model input x, and its D is 0; its m may be anything.
    history: H_{k+1} of every sample is history[k]; as many as any row reads. It and base have x's dtype.
    guidance: as in `solver_step`, and NaN for a sample without guidance, whose m_uncond is not read.

    The other arguments, the results and the gradients are those of `solver_step`, and so are each sample's bits, with
    whatever others it shares the call. On a device no value of `table` and `rows` is read by the host; on the CPU a row
    that is not in the table, or reads what is not given, raises ValueError.
    Raises TypeError or ValueError naming the argument.
    """
    call = _Call(
        x, m, table, rows, base, list(history), m_uncond, guidance, threshold, seeds, write_base, input_dtype, copies,
        list(others), state, weights, write_state,
    )  # fmt: skip
    _check(call)
    return result_of(call, torch.ops.fastdiff.solver_step_rows(*call))


def _check(call: _Call) -> None:
    check_operands(call)
    x = call.x
    for name, tensor in (("base", call.base), *((f"history[{k}]", h) for k, h in enumerate(call.history))):
        if tensor is not None:
            checks.require_dtype(name, tensor, x.dtype)
    checks.require_tensor("table", call.table)
    if call.table.ndim != 2 or call.table.shape[1] != WIDTH or not len(call.table):
        raise ValueError(f"table: expected shape (R, {WIDTH}) with R >= 1, got {tuple(call.table.shape)}")
    checks.require_shape("rows", call.rows, (len(x),))
    for name, values, dtype in (("table", call.table, torch.float64), ("rows", call.rows, torch.int64)):
        checks.require_dtype(name, values, dtype)
        checks.require_device(name, values, x)


def _run(*arguments: Any) -> Outputs:
    call = _Call(*arguments)
    x = call.x
    outputs = _unmoved(call)
    out_x, out_base, out_d, out_input, out_state = outputs
    inputs = [_laid_out(t, out_x) for t in (x, *([] if call.base is None else [call.base]), *call.history)]
    slots = _slots(call.base is not None, len(call.history), call.write_base, x.device)
    records = torch.cat([call.table, slots.expand(len(call.table), -1)], dim=1)
    run = registry.choose("solver_step_rows", registry.CallSpec(x.device.type, x.dtype, tuple(x.shape)))
    run(
        records, call.rows, [*inputs, out_x, out_d, *([out_base] if call.write_base else [])], call.m, call.m_uncond,
        call.guidance, call.threshold, call.seeds, None if call.input_dtype is None else out_input, call.others,
        call.state, call.weights, out_state if call.write_state else None,
    )  # fmt: skip
    return outputs


@functools.lru_cache(maxsize=256)
def _slots(has_base: bool, history: int, write_base: bool, device: torch.device) -> Tensor:
    """[SLOTS] float64: the buffers are x, base, the history, x', D, base'. Kept: it is copied to the device once."""
    first = 1 + has_base
    x_out = first + history
    past = range(first, x_out)
    numbers = slot_numbers((0, int(has_base), past, x_out, x_out + 2 if write_base else None, x_out + 1))
    return torch.tensor(numbers, dtype=torch.float64, device=device)


def _laid_out(tensor: Tensor, like: Tensor) -> Tensor:
    """The tensor with the strides of another, itself where it has them."""
    return tensor if tensor.stride() == like.stride() else torch.empty_like(like).copy_(tensor)


def _unmoved(call: _Call) -> Outputs:
    """What a sample has that does not move."""
    out_x, out_base, out_d, out_input, out_state = _meta(*call)
    out_x.copy_(call.x)
    out_d.zero_()
    if call.write_base:
        out_base.copy_(call.x if call.base is None else call.base)
    if call.input_dtype is not None:
        for copy in out_input.split(len(call.x)) if len(call.x) else ():
            copy.copy_(call.x)
    if call.write_state:
        out_state.zero_() if call.state is None else out_state.copy_(call.state)
    return out_x, out_base, out_d, out_input, out_state


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
    x, nothing = call.x, call.x.new_empty(0)
    base = x if call.base is None else call.base
    numbers = call.table[call.rows.clamp(0, len(call.table) - 1)]
    operands = (x, call.m, call.m_uncond, call.others, call.state)
    new_x, new_base, d = reference_rows.solver_step_rows(
        numbers, x, base, call.m, call.m_uncond, call.history, call.guidance, call.threshold, call.seeds, call.others,
        call.state, call.weights,
    )  # fmt: skip
    active = (call.rows >= 0).view(-1, *[1] * (x.ndim - 1))

    def moved(values: Tensor, kept: Tensor) -> Tensor:
        return torch.where(active, values.to(x.dtype), kept.to(x.dtype))

    new_x, new_base, d = moved(new_x, x), moved(new_base, base), moved(d, torch.zeros_like(x))
    model_input = new_state = nothing
    if call.input_dtype is not None:
        c_in = reference_rows.Rows(numbers, x).of("c_in")
        scaled = torch.where(active, c_in, torch.ones_like(c_in)) * new_x
        model_input = scaled.to(call.input_dtype).repeat(call.copies, *[1] * (x.ndim - 1))
    if call.write_state:
        assert call.weights is not None  # as the public op checks
        kept = torch.zeros_like(x) if call.state is None else call.state
        new_state = moved(reference.weighted_sum(call.weights[:, 2], *operands), kept)
    return new_x, new_base if call.write_base else nothing, d, model_input, new_state


register(
    "solver_step_rows(Tensor x, Tensor m, Tensor table, Tensor rows, Tensor? base, Tensor[] history, Tensor? m_uncond,"
    " Tensor? guidance, Tensor? threshold, Tensor? seeds, bool write_base, ScalarType? input_dtype, int copies,"
    " Tensor[] others, Tensor? state, Tensor? weights, bool write_state) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    _run,
    _meta,
    _formula,
)
