"""`step` under torch.compile: one opaque op, because which row comes next is the run's to know, not the graph's.

So a compiled function that calls `step` is one graph and is not compiled again for the next step.
"""

from __future__ import annotations

import weakref

import torch
from torch import Tensor

from ..ops.reference import compute_dtype
from ..ops.torch_library import LIBRARY
from .run_state import Scheduler

SCHEDULERS: weakref.WeakValueDictionary = weakref.WeakValueDictionary()  # by handle


def _step(
    m: Tensor, timestep: Tensor | None, time: float, x: Tensor, noise: Tensor | None, key: list[float], handle: int
) -> tuple[Tensor, Tensor]:
    scheduler = SCHEDULERS[handle]
    with torch.no_grad():
        new, extra = scheduler._advance(m, time if timestep is None else timestep, x, noise=noise, key=tuple(key))
    run = scheduler._threads.run
    if run.last_sample is x:
        run.last_sample = x.clone()  # the graph may use the memory again
    return new, x.new_empty(0) if extra is None else extra.clone()


def _shapes(
    m: Tensor, timestep: Tensor | None, time: float, x: Tensor, noise: Tensor | None, key: list[float], handle: int
) -> tuple[Tensor, Tensor]:
    scheduler = SCHEDULERS[handle]
    new = torch.empty_like(x, dtype=scheduler._output_dtype(m.dtype, x.dtype))
    exact = compute_dtype(x.dtype)
    return new, x.new_empty(0) if scheduler.recipe.extra is None else torch.empty_like(x, dtype=exact)


def _scale(x: Tensor, timestep: Tensor | None, time: float, handle: int) -> Tensor:
    return SCHEDULERS[handle].scale_model_input(x, time if timestep is None else timestep)


def _scaled_shape(x: Tensor, timestep: Tensor | None, time: float, handle: int) -> Tensor:
    return torch.empty_like(x)


# A CUDA graph would replay one row for ever: the host chooses the row.
_TAGS = tuple(tag for tag in (getattr(torch.Tag, "cudagraph_unsafe", None),) if tag is not None)


def register(schema: str, run: object, shapes: object) -> None:
    LIBRARY.define(schema, tags=(torch.Tag.pt2_compliant_tag, *_TAGS))
    name = schema.split("(")[0]
    LIBRARY.impl(name, run, "CompositeExplicitAutograd")
    torch.library.register_fake(f"fastdiff::{name}", shapes, lib=LIBRARY)


register(
    "scheduler_step(Tensor m, Tensor? timestep, float time, Tensor x, Tensor? noise, float[] key, int handle)"
    " -> (Tensor, Tensor)",
    _step,
    _shapes,
)
register("scheduler_scale(Tensor x, Tensor? timestep, float time, int handle) -> Tensor", _scale, _scaled_shape)


def compiled_step(
    scheduler: Scheduler, m: Tensor, timestep: Tensor | float, x: Tensor, noise: Tensor | None, key: tuple[float, ...]
) -> tuple[Tensor, Tensor]:
    """`advance` as a node of the graph that is being traced."""
    numbers = [float(v or 0) for v in key]
    return torch.ops.fastdiff.scheduler_step(m, *_as_operands(timestep), x, noise, numbers, scheduler._handle)


def compiled_scale(scheduler: Scheduler, x: Tensor, timestep: Tensor | float) -> Tensor:
    """`scale_model_input` as a node of the graph that is being traced."""
    return torch.ops.fastdiff.scheduler_scale(x, *_as_operands(timestep), scheduler._handle)


def _as_operands(timestep: Tensor | float) -> tuple[Tensor | None, float]:
    return (timestep, 0.0) if isinstance(timestep, Tensor) else (None, float(timestep))
