"""The rules by name."""

from __future__ import annotations

from ...keywords import meant
from .base import Rule
from .bounded import EntropyBound, Factor, Threshold
from .editing import Editing
from .ranked import Confidence, Entropy, Margin, RandomOrder
from .timed import Ancestral, FirstHitting, ReMDM
from .trapezoidal import ThetaTrapezoidal
from .uniform import Uniform

RULES: dict[str, type[Rule]] = {
    rule.name: rule
    for rule in (
        Ancestral, FirstHitting, RandomOrder, Confidence, Margin, Entropy, Threshold, Factor, EntropyBound, ReMDM,
        Editing, ThetaTrapezoidal, Uniform,
    )
}  # fmt: skip


def rule_of(rule: str | Rule) -> Rule:
    """The rule of a name with its default options, or the rule. Raises TypeError or ValueError naming `rule`."""
    if isinstance(rule, Rule):
        return rule
    if not isinstance(rule, str):
        raise TypeError(f"rule: expected a name or one of fastdiff.tokens' rules, got {type(rule).__name__}")
    if rule not in RULES:
        near = meant(rule, tuple(RULES))
        hint = f"; did you mean {near}?" if near else ""
        raise ValueError(f"rule: expected one of {', '.join(RULES)}, got {rule!r}{hint}")
    return RULES[rule]()
