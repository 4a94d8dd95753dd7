"""Cheap calls of a network: part of it is not run, and what that part gave at an earlier call takes its place."""

from .cached import Cached, cached
from .split import Split

__all__ = ["Cached", "Split", "cached"]
