"""Methods under torch.compile: one opaque op, as `step` is (see `fastdiff.schedulers.compile`)."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor
from torch.compiler import is_compiling

from .compile import SCHEDULERS, register
from .run_state import Scheduler

METHODS: dict[str, tuple[Callable, int]] = {}
NONE, NUMBER, TENSOR = range(3)  # what an argument is


def opaque(results: int = 1) -> Callable[[Callable], Callable]:
    """For a method that takes tensors, numbers and None by place, model_output first and the sample as its third.

    It returns that many tensors, each of the sample's shape, which are in the wider dtype of both when compiled. A
    generator cannot be given inside torch.compile.
    """

    def decorated(method: Callable) -> Callable:
        name = method.__qualname__
        METHODS[name] = method, results

        @functools.wraps(method)
        def call(self: Scheduler, *arguments: object) -> tuple[Tensor, ...]:
            if not is_compiling():
                return method(self, *arguments)
            kinds, tensors, numbers = [], [], []
            for one in arguments:
                if isinstance(one, torch.Generator):
                    raise ValueError("generator: expected none inside torch.compile")
                if isinstance(one, Tensor):
                    tensors.append(one)
                elif one is not None:
                    numbers.append(float(one))
                kinds.append(TENSOR if isinstance(one, Tensor) else NONE if one is None else NUMBER)
            return tuple(torch.ops.fastdiff.scheduler_method(name, kinds, tensors, numbers, self._handle))

        return call

    return decorated


def _arguments(kinds: list[int], tensors: list[Tensor], numbers: list[float]) -> list[object]:
    left = {TENSOR: iter(tensors), NUMBER: iter(numbers)}
    return [None if kind == NONE else next(left[kind]) for kind in kinds]


def _run(name: str, kinds: list[int], tensors: list[Tensor], numbers: list[float], handle: int) -> list[Tensor]:
    arguments = _arguments(kinds, tensors, numbers)
    with torch.no_grad():
        made = METHODS[name][0](SCHEDULERS[handle], *arguments)
    dtype = torch.promote_types(arguments[0].dtype, arguments[2].dtype)
    return [one.to(dtype) for one in made]


def _shapes(name: str, kinds: list[int], tensors: list[Tensor], numbers: list[float], handle: int) -> list[Tensor]:
    m, _, sample = _arguments(kinds, tensors, numbers)[:3]
    dtype = torch.promote_types(m.dtype, sample.dtype)
    return [torch.empty_like(sample, dtype=dtype) for _ in range(METHODS[name][1])]


register(
    "scheduler_method(str name, int[] kinds, Tensor[] tensors, float[] numbers, int handle) -> Tensor[]", _run, _shapes
)
