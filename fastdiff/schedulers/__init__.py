"""diffusers' schedulers on fastdiff's plans."""

from __future__ import annotations

try:
    import diffusers  # noqa: F401
except ImportError as error:
    raise ImportError(
        "fastdiff.schedulers: expected diffusers to be installed (pip install diffusers), which these classes extend"
    ) from error

from diffusers import SchedulerMixin  # diffusers looks for it in the module that a saved pipeline names

from .fitted import PlanScheduler
from .multistep import DPMSolverMultistepScheduler
from .noise_level import EulerDiscreteScheduler
from .training_times import DDIMScheduler

_CLASSES = (DDIMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler, PlanScheduler)
for _class in _CLASSES:
    _class.__module__ = "fastdiff"  # what a saved pipeline names; it stays when files move

__all__ = ["SchedulerMixin", *(c.__name__ for c in _CLASSES)]
