"""Fit a plan to a model: fewer steps than any solver of the catalogue for the same error, without training."""

from .fit_plan import METHODS, MIN_SAMPLES, fit
from .journal import HEADER, Trial

__all__ = ["HEADER", "METHODS", "MIN_SAMPLES", "Trial", "fit"]
