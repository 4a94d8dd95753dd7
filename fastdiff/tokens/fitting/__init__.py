"""Plans for tokens fitted to a model and texts: the best sizes, thresholds and bounds for so many calls."""

from .curve import Curve
from .fit_plan import Trial, fit, information_curve

__all__ = ["Curve", "Trial", "fit", "information_curve"]
