"""Guidance: what is done with the outputs of several model calls (`fastdiff.sample(..., guidance=...)`)."""

from __future__ import annotations

from ..sampling.combine import Combiner
from ..sampling.rule import Guidance, Point, Rule

__all__ = ["Combiner", "Guidance", "Point", "Rule"]
