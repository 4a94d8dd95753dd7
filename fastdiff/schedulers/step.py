"""`step`: with the signature of diffusers' own, one row of the run's table in one fused call."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from weakref import ref

import numpy as np
import torch
from torch import Tensor, empty_like, float32, is_grad_enabled
from torch.compiler import is_compiling

from ..ops import checks, dynamic_threshold, registry, solver_step
from ..ops.reference import compute_dtype, converted_output
from ..plans.table import flat_row
from .compile import compiled_scale, compiled_step
from .protocol import Generators, Scheduler
from .rows import RowReads, Threshold
from .run_state import RunState
from .runs import row_to_read, run_at_time, run_of_step


def fused_step(
    parent: Callable,
    output: type,
    *,
    key: tuple[str, ...] = (),
    x0: str | None = None,
    native: Callable[[Scheduler, dict], bool] | None = None,
    check: Callable[[Scheduler, object, dict], None] | None = None,
) -> Callable:
    """`step` of a class, with the arguments of diffusers' own, `parent`, and a generator in any case.

    output: what it returns unless return_dict is False. key: the names of the arguments that the rows are made from.
    x0: the name of one that takes the place of the model's output; the key is (1.0,) then.
    native: of a call's arguments, whether diffusers' own step takes it. check: of a scheduler, the time and the
    arguments, raises for a call that cannot be.
    """
    signature = inspect.signature(parent)
    own = tuple(signature.parameters)[4:]
    if "generator" not in own:
        last = inspect.Parameter("generator", inspect.Parameter.POSITIONAL_OR_KEYWORD, default=None)
        signature = signature.replace(parameters=[*signature.parameters.values(), last])
    defaults = {name: parameter.default for name, parameter in list(signature.parameters.items())[4:]}

    @functools.wraps(parent)
    def step(
        self: Scheduler, model_output: Tensor, timestep: float | Tensor, sample: Tensor, *args: object, **given: object
    ) -> object:
        options = {**defaults, **given}
        if args or len(options) > len(defaults):
            options |= _bound(signature, self, model_output, timestep, sample, *args, **given)
        if native is not None and native(self, options):
            return parent(self, model_output, timestep, sample, **{name: options[name] for name in own})
        if check is not None:
            check(self, timestep, options)
        recipe = self.recipe
        options_key = tuple([options[name] for name in key]) if key else ()
        if x0 is not None and options[x0] is not None:
            model_output, options_key = options[x0], (1.0,)
        generator = None if recipe.noise is None else options["generator"]
        noise = options.get("variance_noise")
        new, extra = self._advance(model_output, timestep, sample, noise=noise, generator=generator, key=options_key)
        if recipe.extra is None:
            return output(new) if options["return_dict"] else (new,)
        if not recipe.extra_in_float32:
            extra = extra.to(new.dtype)
        return output(new, extra) if options["return_dict"] else (new, extra)

    step.__signature__ = signature
    step.__doc__ = f"""One row of the scheduler's table, in one fused call; see `fastdiff.schedulers`.

diffusers' own docstring follows. generator: of the classes whose steps draw nothing, not read.

{inspect.getdoc(parent) or ""}"""
    return step


def _bound(signature: inspect.Signature, scheduler: Scheduler, *args: object, **given: object) -> dict[str, object]:
    """The arguments after the sample by their names, those that were not given left out."""
    try:
        return dict(list(signature.bind(scheduler, *args, **given).arguments.items())[4:])
    except TypeError as error:
        raise TypeError(f"{type(scheduler).__name__}.step() {error}") from None


def scale_model_input(self: Scheduler, sample: Tensor, timestep: float | Tensor) -> Tensor:
    """c_in x, [B, ...]: what the model reads at this step."""
    self.is_scale_input_called = True
    if is_compiling():
        return compiled_scale(self, sample, timestep)
    run, row = row_to_read(self, timestep, sample)
    self._refresh(run)
    dtype = torch.float64 if sample.dtype is torch.float64 else torch.float32
    if run.scales is None or run.scales[0].dtype is not dtype:
        run.scales = self._remembered(run, dtype, lambda: _scales(self, run, dtype))
    return sample * run.scales[row]


def _scales(scheduler: Scheduler, run: RunState, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """c_in of each step as CPU tensors, which torch multiplies by in half the time that it takes for numbers."""
    with torch.inference_mode(False):
        return torch.tensor(scheduler.recipe.space.c_in(scheduler, run), dtype=dtype, device="cpu").unbind()


def advance(
    self: Scheduler,
    m: Tensor,
    timestep: object,
    x: Tensor,
    *,
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
    if run.last is None or run.last() is not x:
        run = run_at_time(self, timestep) if recipe.steps_by_time else run_of_step(self, timestep, x)
    if run.watch is None or run.watch.is_stale(self):
        self._prepare(run)
    i, outputs, table = run._step_index, run.model_outputs, run.table
    known, row = run.lower_order_nums, i - run.begin
    if table is None or run.key != key or known != min(row, len(outputs)):
        if known < len(outputs) and row:
            run.begin = max(0, i - known)
            row = i - run.begin
        table = self._table(run, key)
        outputs[:0] = [None] * (table.depth - len(outputs))
    if row >= len(table.rows):
        raise IndexError(f"step: expected {len(run.timesteps)} steps since set_timesteps, this is one more")
    reads, output = table.rows[row], m
    if m.shape != x.shape:
        m = predicting_part(self, m, x)
    history = outputs[: -reads.reads - 1 : -1] if reads.reads else []
    if reads.output:
        history.append(m)
    if reads.draws:
        drawn = recipe.noise(self, run, i, output, x, generator) if noise is None else noise
        checks.require_shape("variance_noise", drawn, x.shape)
        history.append(drawn.to(x.device))
    if table.x0 is not None:
        m = _limited(table.x0[row], x, m, table.threshold)
    base, move = x if run.last_sample is None else run.last_sample, reads.move
    new, new_base, d = _apply(self, run, table.records, row, reads, x, base, m, history)
    run.last_sample = None if move == "next" else new_base if move == "write" else x if move == "here" else base
    if reads.keeps:
        del outputs[0]
        outputs.append(d)
        for k in reads.drop_history:
            del outputs[-1 - k]
            outputs.insert(0, None)
    if known < len(outputs):
        run.lower_order_nums = known + 1
    run._step_index = i + 1
    run.last = ref(new) if row + 1 < len(table.rows) else None
    return new, d if recipe.extra == "converted" else new_base


def _apply(
    scheduler: Scheduler,
    run: RunState,
    records: np.ndarray,
    row: int,
    reads: RowReads,
    x: Tensor,
    base: Tensor,
    m: Tensor,
    history: list[Tensor],
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """(x', base' where it is written, D where it is kept)."""
    dtype, writes = x.dtype, reads.move == "write"
    case = (x.shape, dtype, x.device)
    if run.case != case:
        _check(m, x)
        spec = registry.CallSpec(x.device.type, dtype, tuple(x.shape))
        run.case, run.kernel = case, registry.choose("solver_step", spec)
    result = dtype if m.dtype is dtype else scheduler._output_dtype(m.dtype, dtype)
    if type(x) is not Tensor or type(m) is not Tensor or (is_grad_enabled() and _differentiable(x, m, history)):
        made = solver_step(x, m, flat_row(records[row]), base=base, history=history, write_base=writes)
        return made.x.to(result), made.base, made.converted
    exact = dtype if dtype is float32 else compute_dtype(dtype)
    new = empty_like(x) if result is dtype else empty_like(x, dtype=result)
    d = None if not reads.keeps else empty_like(x) if exact is dtype else empty_like(x, dtype=exact)
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


def _differentiable(*tensors: object) -> bool:
    x, m, history = tensors
    return x.requires_grad or m.requires_grad or any(h.requires_grad for h in history)
