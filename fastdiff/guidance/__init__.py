"""Guidance: what is done with the outputs of several model calls (`fastdiff.sample(..., guidance=...)`).

Each method is a frozen value; the table in the documentation says which is for what. c is the conditional output, u the
unconditional one, <a, b> and |a| are over all elements of a sample.
"""

from __future__ import annotations

from ..sampling.combine import Combiner
from ..sampling.rule import Guidance, Point, Rule
from .apg import APG
from .cfg import CFG
from .cfgpp import CFGpp
from .magnitude import Magnitude
from .schedules import Beta, Scheduled
from .several_prompts import Dual, PerpNeg
from .tangential import Tangential
from .terms import Autoguidance, Term, Terms
from .zero_star import ZeroStar

__all__ = [
    "APG",
    "CFG",
    "Autoguidance",
    "Beta",
    "CFGpp",
    "Combiner",
    "Dual",
    "Guidance",
    "Magnitude",
    "PerpNeg",
    "Point",
    "Rule",
    "Scheduled",
    "Tangential",
    "Term",
    "Terms",
    "ZeroStar",
]
