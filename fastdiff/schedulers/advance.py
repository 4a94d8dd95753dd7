"""One row of the run's table, in one fused call: what every `step` does."""

from __future__ import annotations

from weakref import ref

import numpy as np
from torch import Tensor, empty_like, float32, is_grad_enabled
from torch.compiler import is_compiling

from ..ops import checks, dynamic_threshold, registry, solver_step
from ..ops.reference import compute_dtype, converted_output
from ..plans.table import flat_row
from ..sampling.registers import next_base, push_output
from .compile import compiled_step
from .rows import Threshold
from .run_state import Generators, RunState, Scheduler
from .runs import run_at_time, run_of_step


def advance(
    self: Scheduler,
    m: Tensor,
    timestep: object,
    x: Tensor,
    noise: Tensor | None = None,
    generator: Generators = None,
    key: tuple[float, ...] = (),
) -> tuple[Tensor, Tensor | None]:
    """(the next sample, the recipe's extra), each [B, ...]. key: the options that `step` was given, as numbers."""
    if is_compiling():
        if generator is not None:
            raise ValueError("generator: expected none inside torch.compile")
        return compiled_step(self, m, timestep, x, noise, key)
    recipe = self.recipe
    run = self._threads.run
    continues = run.last is not None and run.last() is x and not recipe.steps_by_time
    if not continues:
        run = run_at_time(self, timestep) if recipe.steps_by_time else run_of_step(self, timestep, x)
    if run.watch is None or run.watch.is_stale(self):
        self._prepare(run)
    i, outputs, table = run._step_index, run.model_outputs, run.table
    known, row, size = run.lower_order_nums, i - run.begin, len(outputs)
    if table is None or run.key != key or known != (row if row < size else size):
        if known < size and row:
            run.begin = max(0, i - known)
            row = i - run.begin
        table = self._table(run, key)
        outputs[:0] = [None] * (table.depth - size)
        size = len(outputs)
    if row >= len(table.rows):
        raise IndexError(f"step: expected {len(run.timesteps)} steps since set_timesteps, this is one more")
    moves, reads_output, draws, keeps = table.rows[row]
    output, shape = m, x.shape
    if m.shape != shape:
        m = predicting_part(self, m, x)
    if not continues or run.case[1] is not x.dtype:
        _choose_kernel(run, x, m)
    history = outputs[: -moves.reads - 1 : -1] if moves.reads else []
    if reads_output:
        history.append(m)
    if draws:
        drawn = recipe.noise(self, run, i, output, x, generator) if noise is None else noise
        for one in drawn if isinstance(drawn, tuple) else (drawn,):
            checks.require_shape("variance_noise", one, shape)
            history.append(one.to(x.device))
    if table.x0 is not None:
        m = _limited(table.x0[row], x, m, table.threshold)
    base = x if run.last_sample is None else run.last_sample
    new, new_base, d = _apply(self, run, row, x, base, m, history, moves.base == "write", keeps)
    base = next_base(moves, x, base, new, new_base)
    run.last_sample = None if base is new else base
    if keeps:
        push_output(moves, outputs, d)
    if known < size:
        run.lower_order_nums = known + 1
    run._step_index = i + 1
    run.last = ref(new) if row + 1 < len(table.rows) else None
    return new, new_base if recipe.extra == "base" else d if recipe.extra else None


def _choose_kernel(run: RunState, x: Tensor, m: Tensor) -> None:
    case = (x.shape, x.dtype, x.device)
    if run.case != case:
        _check(m, x)
        spec = registry.CallSpec(x.device.type, x.dtype, tuple(x.shape))
        run.case, run.kernel = case, registry.choose("solver_step", spec)


def _apply(
    scheduler: Scheduler,
    run: RunState,
    row: int,
    x: Tensor,
    base: Tensor,
    m: Tensor,
    history: list[Tensor],
    writes: bool,
    keeps: bool,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """(x', base' where it is written, D where it is kept)."""
    dtype, records = x.dtype, run.table.records
    result = dtype if m.dtype is dtype else scheduler._output_dtype(m.dtype, dtype)
    if type(x) is not Tensor or type(m) is not Tensor or (is_grad_enabled() and _differentiable(x, m, history)):
        made = solver_step(x, m, flat_row(records[row]), base=base, history=history, write_base=writes)
        return made.x.to(result), made.base, made.converted
    exact = dtype if dtype is float32 else compute_dtype(dtype)
    new = empty_like(x) if result is dtype else empty_like(x, dtype=result)
    d = None if not keeps else empty_like(x) if exact is dtype else empty_like(x, dtype=exact)
    new_base = empty_like(x, dtype=exact) if writes else None
    run.kernel(records, row, x, base, m, None, history, None, None, None, new, new_base, d, None)
    return new, new_base, d


def _limited(record: np.void, x: Tensor, m: Tensor, threshold: Threshold) -> Tensor:
    """x0 [B, ...] after dynamic thresholding: where the largest limit is below 1, it is the limit."""
    ratio, most = threshold.ratio, threshold.limit
    limit = dynamic_threshold(converted_output(record, x, m, None, None), ratio=ratio, limit=max(most, 1.0))
    limit = limit.clamp(max=most)
    return solver_step(x, m, flat_row(record), threshold=limit).converted


def predicting_part(scheduler: Scheduler, m: Tensor, x: Tensor) -> Tensor:
    """The part of the output that predicts; the rest is a variance, which only DDPM's noise is scaled by."""
    _check(m, x)
    if m.ndim == x.ndim > 1 and m.shape[1] == 2 * x.shape[1] and getattr(scheduler.config, "variance_type", False):
        return m[:, : x.shape[1]]
    raise ValueError(f"model_output: expected shape {tuple(x.shape)}, as the sample's, got {tuple(m.shape)}")


def _check(m: Tensor, x: Tensor) -> None:
    checks.require_float("sample", x)
    checks.require_float("model_output", m)
    checks.require_device("model_output", m, x)


def _differentiable(x: Tensor, m: Tensor, history: list[Tensor]) -> bool:
    return x.requires_grad or m.requires_grad or any(h.requires_grad for h in history)
