"""The ops that carry the speed: each validates once, chooses a backend, runs."""

from .attention import attention
from .group_norm import group_norm
from .registry import backend
from .solver_step import StepResult, make_row, solver_step
from .threshold import dynamic_threshold

__all__ = ["StepResult", "attention", "backend", "dynamic_threshold", "group_norm", "make_row", "solver_step"]
