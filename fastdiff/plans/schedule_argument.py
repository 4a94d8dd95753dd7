"""What is said where a schedule was expected and something else came."""

from __future__ import annotations

import difflib

from .schedule import Schedule

CONSTRUCTORS = (
    *("from_betas", "from_alphas_cumprod", "linear", "scaled_linear", "cosine", "vp", "edm", "flow", "from_functions"),
)


def require_schedule(schedule: object) -> None:
    """Raises TypeError naming the constructor to call."""
    if isinstance(schedule, Schedule):
        return
    near = difflib.get_close_matches(schedule, CONSTRUCTORS, n=1) if isinstance(schedule, str) else []
    near = ["from_scheduler"] if hasattr(schedule, "set_timesteps") else near
    names = f"{near[0]}(...)" if near else f"<name>(...), of {', '.join(CONSTRUCTORS)}"
    raise TypeError(f"schedule: expected a fastdiff.Schedule, got {schedule!r}; make one by Schedule.{names}")
