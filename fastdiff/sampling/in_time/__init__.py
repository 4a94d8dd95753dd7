"""Runs that are parallel in time: the states of many rows are guessed, their evaluations share calls of the model, and
rounds of both go on until the states are those of the run row after row.
"""

from __future__ import annotations

from .report import InTime
from .sample import sample_in_time

__all__ = ["InTime", "sample_in_time"]
