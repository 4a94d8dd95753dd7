"""What set_timesteps refuses."""

from __future__ import annotations

import numpy as np

from .run_state import Scheduler
from .space import Wanted

GRIDS = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "use_lu_lambdas")


def grid_of(scheduler: Scheduler) -> str | None:
    """The option of the configuration that says what the sigmas are, if any."""
    return next((name for name in GRIDS if getattr(scheduler.config, name, False)), None)


def check_times(scheduler: Scheduler, steps: int | None, wanted: Wanted) -> None:
    """Raises ValueError naming the argument."""
    if wanted.timesteps is not None and wanted.sigmas is not None:
        raise ValueError("timesteps, sigmas: expected one of them, got both")
    for name in ("timesteps", "sigmas"):
        values = getattr(wanted, name)
        if values is None:
            continue
        array = np.asarray(values, dtype=np.float64)
        if array.ndim != 1 or len(array) < 1 or not np.isfinite(array).all():
            raise ValueError(f"{name}: expected a sequence of numbers, got {values!r}")
        if name == "sigmas" and ((array[:-1] <= 0).any() or array[-1] < 0):
            raise ValueError(f"sigmas: expected numbers > 0, the last one >= 0, got {values!r}")
        if grid := grid_of(scheduler):
            raise ValueError(f"{name}: expected none with {grid}, got {len(array)}")
        if steps is not None and steps != scheduler.recipe.space.count(scheduler, wanted):
            raise ValueError(f"num_inference_steps: expected None or the number of {name}, got {steps}")
    if steps is None and wanted.timesteps is None and wanted.sigmas is None:
        raise ValueError("num_inference_steps: expected a number, or timesteps, or sigmas; got none of them")
