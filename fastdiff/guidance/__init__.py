"""Guidance: what is done with the outputs of several model calls (`fastdiff.sample(..., guidance=...)`).

Each method is a frozen value; the table in the documentation says which is for what. c is the conditional output, u the
unconditional one, <a, b> and |a| are over all elements of a sample.
"""

from __future__ import annotations

from ..sampling.combine import Combiner
from ..sampling.rule import Guidance, Point, Rule
from .adaptive import Adaptive
from .anneal import anneal_condition
from .apg import APG
from .cfg import CFG
from .cfg_norm import CFGNorm
from .cfgpp import CFGpp
from .classifier import ClassifierGuidance, Gradient
from .counts import Calls, calls
from .frequency import FrequencyDecoupled, FreSca
from .history import History
from .magnitude import Magnitude
from .noise_scaling import NoiseScaling
from .reuse import ReuseUncond
from .schedules import Beta, Scheduled
from .several_prompts import Dual, PerpNeg
from .tangential import Tangential
from .terms import Autoguidance, Term, Terms
from .zero_star import ZeroStar

__all__ = [
    "APG",
    "CFG",
    "Adaptive",
    "Autoguidance",
    "Beta",
    "CFGNorm",
    "CFGpp",
    "Calls",
    "ClassifierGuidance",
    "Combiner",
    "Dual",
    "FreSca",
    "FrequencyDecoupled",
    "Gradient",
    "Guidance",
    "History",
    "Magnitude",
    "NoiseScaling",
    "PerpNeg",
    "Point",
    "ReuseUncond",
    "Rule",
    "Scheduled",
    "Tangential",
    "Term",
    "Terms",
    "ZeroStar",
    "anneal_condition",
    "calls",
]
