"""plan: a plan from a rule's name and a number of steps."""

from __future__ import annotations

import itertools
import math
import numbers
from collections.abc import Sequence

from .rules.base import Rule
from .rules.catalogue import rule_of
from .token_plan import Plan

FINE = 2**20  # of what a schedule's shares are whole numbers


def plan(
    rule: str | Rule = "random",
    steps: int | None = None,
    *,
    sizes: str | Sequence[int] = "uniform",
    block: int | None = None,
) -> Plan:
    """A plan of `steps` steps for tokens, or for each block of them.

    rule: a name, for the rule with its default options, or a rule: `fd.tokens.Threshold(0.95)`.
    steps: >= 1. Rules that end when all is done need none; they take at least what the sizes say where it is given.
    sizes: how many tokens a step: "uniform"; "cosine", few first, as 1 - cos(pi i / 2 steps) (arXiv:2202.04200); or
        the whole numbers, one a step, which are shares where a window has another number of masks than their sum.
    block: the length of blocks that are made one after the other, each with all the steps (arXiv:2503.09573).
    Raises TypeError or ValueError naming the argument.

    >>> plan("confidence", 4, sizes="cosine").steps
    4
    >>> plan("random", sizes=[4, 8, 16, 36]).reached
    (0, 4, 12, 28, 64)
    """
    rule = rule_of(rule)
    if steps is not None and (not isinstance(steps, int) or isinstance(steps, bool) or steps < 1):
        raise ValueError(f"steps: expected a whole number >= 1, got {steps!r}")
    if isinstance(sizes, str):
        if steps is None and not rule.adaptive:
            raise ValueError(f"steps: expected a whole number >= 1 for the rule {rule.name}, got None")
        return Plan(rule, None if steps is None else _named(sizes, steps), block)
    each = tuple(int(size) if isinstance(size, numbers.Integral) else size for size in sizes)
    if steps is not None and steps != len(each):
        raise ValueError(f"sizes: expected one for each of {steps} steps, got {len(each)}")
    made = Plan(rule, each, block)
    if block is not None and sum(each) != block:
        raise ValueError(f"sizes: expected them to add up to the block's length {block}, got {sum(each)}")
    return made


def _named(sizes: str, steps: int) -> tuple[int, ...]:
    if sizes == "uniform":
        return (1,) * steps
    if sizes == "cosine":
        reached = [round(FINE * (1 - math.cos(math.pi * i / (2 * steps)))) for i in range(steps + 1)]
        return tuple(after - before for before, after in itertools.pairwise(reached))
    raise ValueError(f"sizes: expected 'uniform', 'cosine' or whole numbers, got {sizes!r}")
