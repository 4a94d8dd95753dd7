"""The ops that carry the speed: each validates once, chooses a backend, runs."""

from .definitions.attention import attention
from .definitions.gram import gram
from .definitions.group_norm import group_norm
from .definitions.solver_step import StepResult, make_row, solver_step
from .definitions.solver_step_rows import solver_step_rows
from .definitions.threshold import dynamic_threshold
from .definitions.token_stats import TokenStats, token_stats
from .registry import backend
from .row_table import RowTable

__all__ = [
    "RowTable",
    "StepResult",
    "TokenStats",
    "attention",
    "backend",
    "dynamic_threshold",
    "gram",
    "group_norm",
    "make_row",
    "solver_step",
    "solver_step_rows",
    "token_stats",
]
