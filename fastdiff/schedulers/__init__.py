"""diffusers' schedulers on fastdiff's plans."""

from __future__ import annotations

try:
    import diffusers  # noqa: F401
except ImportError as error:
    raise ImportError(
        "fastdiff.schedulers: expected diffusers to be installed (pip install diffusers), which these classes extend"
    ) from error

from diffusers import SchedulerMixin  # diffusers looks for it in the module that a saved pipeline names

from .distilled import LCMScheduler, TCDScheduler
from .edm import EDMDPMSolverMultistepScheduler, EDMEulerScheduler
from .fitted import PlanScheduler
from .flow import FlowMatchEulerDiscreteScheduler, FlowMatchHeunDiscreteScheduler
from .multistep import (
    DEISMultistepScheduler,
    DPMSolverMultistepInverseScheduler,
    DPMSolverMultistepScheduler,
    UniPCMultistepScheduler,
)
from .noise_level import EulerAncestralDiscreteScheduler, EulerDiscreteScheduler, LMSDiscreteScheduler
from .pseudo import IPNDMScheduler, PNDMScheduler
from .singlestep import DPMSolverSinglestepScheduler
from .training_times import DDIMInverseScheduler, DDIMScheduler, DDPMScheduler
from .two_stage import (
    DPMSolverSDEScheduler,
    HeunDiscreteScheduler,
    KDPM2AncestralDiscreteScheduler,
    KDPM2DiscreteScheduler,
)

_CLASSES = (
    DDIMInverseScheduler,
    DDIMScheduler,
    DDPMScheduler,
    DEISMultistepScheduler,
    DPMSolverMultistepInverseScheduler,
    DPMSolverMultistepScheduler,
    DPMSolverSDEScheduler,
    DPMSolverSinglestepScheduler,
    EDMDPMSolverMultistepScheduler,
    EDMEulerScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    HeunDiscreteScheduler,
    IPNDMScheduler,
    KDPM2AncestralDiscreteScheduler,
    KDPM2DiscreteScheduler,
    LCMScheduler,
    LMSDiscreteScheduler,
    PNDMScheduler,
    PlanScheduler,
    TCDScheduler,
    UniPCMultistepScheduler,
)
for _class in _CLASSES:
    _class.__module__ = "fastdiff"  # what a saved pipeline names; it stays when files move

__all__ = ["SchedulerMixin", *(c.__name__ for c in _CLASSES)]
