"""Patch an existing model in place: its group normalisations, attentions and scheduler on fastdiff's, with undo."""

from . import perturb
from .handle import Handle
from .in_place import accelerate

__all__ = ["Handle", "accelerate", "perturb"]
