"""Continuous batching: requests with plans of their own share the model's calls."""

from .batch import StepBatch
from .ticket import Ticket

__all__ = ["StepBatch", "Ticket"]
