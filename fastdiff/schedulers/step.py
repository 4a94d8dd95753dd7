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
from ..sampling.registers import settle
from .compile import compiled_scale, compiled_step
from .rows import Threshold
from .run_state import Generators, RunState, Scheduler
from .runs import row_to_read, run_at_time, run_of_step


def fused_step(
    parent: Callable,
    output: type,
    *,
    key: tuple[str, ...] = (),
    x0: str | None = None,
    native: Callable[[Scheduler, dict], bool] | None = None,
    check: Callable[[Scheduler, object, Generators, dict], None] | None = None,
) -> Callable:
    """`step` of a class, with the arguments of diffusers' own, `parent`, and a generator in any case.

    output: what it returns unless return_dict is False. key: the names of the arguments that the rows are made from.
    x0: the name of one that takes the place of the model's output; the key is (1.0,) then.
    native: (scheduler, options) -> whether diffusers' own step takes this call. check: (scheduler, timestep, generator,
    options), raises for a call that cannot be. options: the other arguments, those that were given.
    """
    signature = inspect.signature(parent)
    own = tuple(signature.parameters)
    if "generator" not in own:
        last = inspect.Parameter("generator", inspect.Parameter.POSITIONAL_OR_KEYWORD, default=None)
        signature = signature.replace(parameters=[*signature.parameters.values(), last])
    names = frozenset(signature.parameters)
    keys = tuple((name, signature.parameters[name].default) for name in key)

    @functools.wraps(parent)
    def step(
        self: Scheduler,
        model_output: Tensor,
        timestep: float | Tensor,
        sample: Tensor,
        *args: object,
        generator: Generators = None,
        return_dict: bool = True,
        **options: object,
    ) -> object:
        if args or not names.issuperset(options):
            by_name = {"generator": generator} if generator is not None else {}
            by_name |= options if return_dict else {**options, "return_dict": return_dict}
            options = _bound(signature, self, model_output, timestep, sample, *args, **by_name)
            return step(self, model_output, timestep, sample, **options)
        if native is not None and native(self, options):
            options |= {"generator": generator, "return_dict": return_dict}
            return parent(self, model_output, timestep, sample, **{k: v for k, v in options.items() if k in own})
        if check is not None:
            check(self, timestep, generator, options)
        recipe, numbers, noise = self.recipe, (), None
        if options:
            noise = options.get("variance_noise")
            if x0 is not None and options.get(x0) is not None:
                model_output, numbers = options[x0], (1.0,)
        if keys:
            numbers = tuple([options.get(*option) for option in keys])
        new, extra = self._advance(
            model_output, timestep, sample, noise, None if recipe.noise is None else generator, numbers
        )
        if recipe.extra is None:
            return output(new) if return_dict else (new,)
        if extra.dtype is not new.dtype and not recipe.extra_in_float32:
            extra = extra.to(new.dtype)
        return output(new, extra) if return_dict else (new, extra)

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
    continues = run.last is not None and run.last() is x
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
    past = outputs[::-1] if keeps else []
    history = past[: moves.reads]
    if reads_output:
        history.append(m)
    if draws:
        drawn = recipe.noise(self, run, i, output, x, generator) if noise is None else noise
        checks.require_shape("variance_noise", drawn, shape)
        history.append(drawn.to(x.device))
    if table.x0 is not None:
        m = _limited(table.x0[row], x, m, table.threshold)
    base = x if run.last_sample is None else run.last_sample
    new, new_base, d = _apply(self, run, row, x, base, m, history, moves.base == "write", keeps)
    base, past = settle(moves, x, base, past, new, new_base, d)
    run.last_sample = None if base is new else base
    if keeps:
        outputs[:] = past[size - 1 :: -1]
        if moves.drop:
            outputs[:0] = [None] * (size - len(outputs))
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


def _differentiable(*tensors: object) -> bool:
    x, m, history = tensors
    return x.requires_grad or m.requires_grad or any(h.requires_grad for h in history)
