"""set_timesteps of classes whose models know no times but diffusers' own: distilled ones, and those of other units."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch

from .run_state import RunState, Scheduler


def own_times(parent: Callable[..., None]) -> Callable[..., None]:
    """diffusers' own set_timesteps, `parent`, with its arguments and errors, for a run of its own."""

    @functools.wraps(parent)
    def set_timesteps(self: Scheduler, *args: object, **options: object) -> None:
        # Tensors made outside inference mode count the edits that a host makes to them.
        with torch.inference_mode(False):
            run = self._threads.use(RunState())
            parent(self, *args, **options)
            run._step_index = None  # 0 in diffusers' RFD4Proteina, which begins nowhere else
            self._prepare(run)

    return set_timesteps
