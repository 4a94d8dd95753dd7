"""What the parts of a scheduler ask of it: `fastdiff.schedulers.base.FusedScheduler` is one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

Generators = torch.Generator | list[torch.Generator] | None
Key = tuple[float, ...]  # the options of `step` that rows are made from


class Scheduler(Protocol):
    """config, timesteps, alphas_cumprod: diffusers' own. The rest: see FusedScheduler."""

    config: Any
    recipe: Any
    timesteps: Tensor
    alphas_cumprod: Tensor
    is_scale_input_called: bool
    _threads: Any
    _handle: int

    def _prepare(self, run: Any) -> None: ...

    def _refresh(self, run: Any, always: bool = False) -> None: ...

    def _require_steps(self, run: Any) -> None: ...

    def _remembered(self, run: Any, what: object, make: Callable[[], Any]) -> Any: ...

    def _table(self, run: Any, key: Key) -> Any: ...

    def _advance(self, m: Tensor, timestep: object, x: Tensor, **options: Any) -> tuple[Tensor, Tensor | None]: ...

    def _output_dtype(self, output: torch.dtype, sample: torch.dtype) -> torch.dtype: ...
