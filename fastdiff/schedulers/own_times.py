"""set_timesteps of classes whose models know no times but diffusers' own: distilled ones, and those of other units."""

from __future__ import annotations

import functools
from collections.abc import Callable

from .run_state import Scheduler, new_run


def own_times(parent: Callable[..., None]) -> Callable[..., None]:
    """diffusers' own set_timesteps, `parent`, with its arguments and errors, for a run of its own."""

    @functools.wraps(parent)
    def set_timesteps(self: Scheduler, *args: object, **options: object) -> None:
        with new_run(self) as run:
            parent(self, *args, **options)
            run._step_index = None  # 0 in diffusers' RFD4Proteina, which begins nowhere else

    return set_timesteps
