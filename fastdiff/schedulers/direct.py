"""Steps that get from their caller all that they read: one row, made for the times or levels that they are told."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, empty_like, is_grad_enabled

from ..ops import registry, solver_step
from ..ops.reference import compute_dtype
from ..plans.row import Row
from ..plans.table import flat_row
from .rows import Refused, Table, make_table
from .run_state import Key, RunState, Scheduler


def told(scheduler: Scheduler, timestep: float | Tensor) -> tuple[RunState, float]:
    """(the run whose time this is, the time), without reading an element of the run's own timesteps."""
    first = timestep[(0,) * timestep.ndim] if isinstance(timestep, Tensor) and timestep.ndim else timestep
    run, place = scheduler._threads.with_element(first)
    scheduler._refresh(run)
    return run, float(first) if place is None else float(run.times[place])


def place_in(own: Tensor | None, scalar: object) -> int | None:
    """The index of a scalar that is an element of a tensor's own memory, without reading it; else None."""
    if own is None or not isinstance(scalar, Tensor) or scalar.ndim or scalar.dtype is not own.dtype:
        return None
    offset, size = scalar.data_ptr() - own.data_ptr(), own.element_size()
    return offset // size if scalar.device == own.device and 0 <= offset < size * len(own) else None


def direct_step(
    scheduler: Scheduler,
    run: RunState,
    key: Key,
    make: Callable[[], Row | Refused],
    x: Tensor,
    m: Tensor,
    operands: Sequence[Tensor] = (),
    base: Tensor | None = None,
    result: torch.dtype | None = None,
) -> tuple[Tensor, Tensor | None, Tensor]:
    """(x', base' where the row writes one, D), each [B, ...], by the row that make gives for the key.

    operands: the tensors that the row reads as its noises, in their order. result: the dtype of x', the wider one of x
    and m where not given. What bounds x0 is the scheduler's.
    """
    tables = scheduler._remembered(run, "direct", dict)
    table = tables.get(key)
    if table is None:
        table = tables[key] = make_table([make()], *scheduler._bounds())
    moves, _, _, _ = table.rows[0]
    result = torch.promote_types(m.dtype, x.dtype) if result is None else result
    return _apply(table, x, m, x if base is None else base, list(operands), moves.base == "write", result)


def _apply(
    table: Table, x: Tensor, m: Tensor, base: Tensor, operands: list[Tensor], writes: bool, result: torch.dtype
) -> tuple[Tensor, Tensor | None, Tensor]:
    reads = (x, m, base, *operands)
    if any(type(one) is not Tensor for one in reads) or (is_grad_enabled() and any(one.requires_grad for one in reads)):
        made = solver_step(x, m, flat_row(table.records[0]), base=base, history=operands, write_base=writes)
        return made.x.to(result), made.base, made.converted
    kernel = registry.choose("solver_step", registry.CallSpec(x.device.type, x.dtype, tuple(x.shape)))
    exact = compute_dtype(x.dtype)
    new, d = empty_like(x, dtype=result), empty_like(x, dtype=exact)
    new_base = empty_like(x, dtype=exact) if writes else None
    kernel(table.records, 0, x, base, m, None, operands, None, None, None, new, new_base, d, None)
    return new, new_base, d
