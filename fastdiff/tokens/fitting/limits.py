"""Thresholds and bounds of rules that end when all is done, for as many steps in the mean as are asked for."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

from ..rules.base import Rule
from ..rules.bounded import EntropyBound, Factor, Threshold
from ..token_plan import Plan
from .teacher import Lesson, Teacher

# Rules by their limits' logits or logarithms, one a step: the larger, the stricter.
LIMITED: dict[str, Callable[[tuple[float, ...]], Rule]] = {
    "threshold": lambda levels: Threshold(tuple(1 / (1 + math.exp(-level)) for level in levels)),
    "factor": lambda levels: Factor(tuple(math.exp(-level) for level in levels)),
    "entropy_bound": lambda levels: EntropyBound(tuple(math.exp(-level) for level in levels)),
}
LEAST, MOST = -10.0, 14.0
ROUNDS = 8
SLOPES = (0.0, -2.0, 2.0)  # of the levels over the steps


def best_limits(teacher: Teacher, name: str, steps: int, block: int | None) -> Plan | None:
    """The plan of at most `steps` steps in the mean under which the texts are most probable; None where none is.

    Levels that are the same at all steps, fall and rise are each moved by bisection to as many steps as may be.
    """
    found = [found for slope in SLOPES for found in _bisected(teacher, name, steps, block, slope)]
    return min(found, key=lambda pair: float(pair[1].nll.mean()))[0] if found else None


def _bisected(
    teacher: Teacher, name: str, steps: int, block: int | None, slope: float
) -> Iterator[tuple[Plan, Lesson]]:
    """All plans that bisection meets and that have at most so many steps, with what they came to."""
    low, high = LEAST, MOST
    for _ in range(ROUNDS):
        middle = (low + high) / 2
        levels = tuple(middle + slope * (i / max(steps - 1, 1) - 0.5) for i in range(steps if slope else 1))
        plan = Plan(LIMITED[name](levels), None, block)
        lesson = teacher.lesson(plan)
        if lesson.steps <= steps:
            low = middle
            yield plan, lesson
        else:
            high = middle
