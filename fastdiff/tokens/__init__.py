"""Tokens by masked or uniform diffusion: plans, the rules they go by, and sampling."""

from .build import plan
from .fitting import Curve, Trial, fit, information_curve
from .rules.bounded import EntropyBound, Factor, Threshold
from .rules.editing import Editing
from .rules.ranked import Confidence, Entropy, Margin, RandomOrder
from .rules.timed import Ancestral, FirstHitting, ReMDM
from .rules.trapezoidal import ThetaTrapezoidal
from .rules.uniform import Uniform
from .run import Step
from .sampling import iter_sample, sample
from .token_plan import Plan

__all__ = [
    "Ancestral",
    "Confidence",
    "Curve",
    "Editing",
    "Entropy",
    "EntropyBound",
    "Factor",
    "FirstHitting",
    "Margin",
    "Plan",
    "RandomOrder",
    "ReMDM",
    "Step",
    "ThetaTrapezoidal",
    "Threshold",
    "Trial",
    "Uniform",
    "fit",
    "information_curve",
    "iter_sample",
    "plan",
    "sample",
]
