"""`step` and `scale_model_input` as pipelines call them: with the signature of diffusers' own."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable

import torch
from torch import Tensor
from torch.compiler import is_compiling

from ..ops.reference import compute_dtype
from .compile import compiled_scale
from .run_state import Generators, RunState, Scheduler
from .runs import row_to_read


def fused_step(
    parent: Callable,
    output: type,
    *,
    key: tuple[str, ...] = (),
    x0: str | None = None,
    noise: str = "variance_noise",
    native: Callable[[Scheduler, dict], bool] | None = None,
    check: Callable[[Scheduler, object, Generators, dict], None] | None = None,
) -> Callable:
    """`step` of a class, with the arguments of diffusers' own, `parent`, and a generator in any case.

    output: what it returns unless return_dict is False. key: the names of the arguments that the rows are made from.
    x0: the name of one that takes the place of the model's output; the key is (1.0,) then. noise: the name of the one
    that is the step's noise.
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
    varies = native is not None or check is not None or bool(keys)  # otherwise most calls have nothing to look at

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
        drawn, numbers = None, ()
        if varies or args or options:
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
            drawn = options.get(noise)
            if x0 is not None and options.get(x0) is not None:
                model_output, numbers = options[x0], (1.0,)
            if keys:
                numbers = tuple([options.get(*option) for option in keys])
        recipe = self.recipe
        drawn_from = None if recipe.noise is None else generator
        new, extra = self._advance(model_output, timestep, sample, drawn, drawn_from, numbers)
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
    run.scaled = True
    self._refresh(run)
    dtype = compute_dtype(sample.dtype)
    if run.scales is None or run.scales[0].dtype is not dtype:
        run.scales = self._remembered(run, dtype, lambda: _scales(self, run, dtype))
    return sample * run.scales[row]


def _scales(scheduler: Scheduler, run: RunState, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """c_in of each step as CPU tensors, which torch multiplies by in half the time that it takes for numbers."""
    with torch.inference_mode(False):
        return torch.tensor(scheduler.recipe.space.c_in(scheduler, run), dtype=dtype, device="cpu").unbind()
