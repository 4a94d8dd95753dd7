"""Guidance applied to outputs that are at hand: for callers with a loop of their own."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..ops import registry
from .program import with_guidance
from .rule import Guidance, Point, Rule
from .weights import COMBINING, Memory, known_weights


class Combiner:
    """The guided output of each evaluation of one run: `combiner(point, x, outputs)`.

    It keeps what the guidance remembers from one evaluation to the next, so every run has a Combiner of its own.
    """

    def __init__(self, guidance: Guidance) -> None:
        self.guidance = guidance
        self._memory: Memory | None = None
        self._latest: tuple[Point, Guidance, Rule] | None = None

    def rule(self, point: Point) -> Rule:
        """What is done at the point: `rule(point).calls` says which outputs are wanted."""
        if self._memory is not None and self._memory.stopped:
            return Rule()
        if self._latest is None or self._latest[0] is not point or self._latest[1] is not self.guidance:
            self._latest = point, self.guidance, self.guidance.rule(point)
        return self._latest[2]

    @torch.no_grad()
    def __call__(self, point: Point, x: Tensor, outputs: Sequence[Tensor | None]) -> Tensor:
        """y [B, ...] in the dtype of the outputs, or the output itself where that is y.

        x: [B, ...] where the model was evaluated; its dtype says how precisely to compute, as for
        `fastdiff.ops.solver_step`. outputs: those of the conditional call, the unconditional one and the guidance's
        `extra`; None, or left out, where the rule does not name them. Raises ValueError where one is missing.
        """
        rule = self.rule(point)
        if self._memory is None:
            self._memory = Memory(self.guidance, x)
        found = {call: self._output(call, outputs) for call in rule.calls if call is not None}
        m, m_uncond, *_ = slots = self._memory.slots(rule, found)
        if rule.combine is not None:
            return rule.combine(x, [output for output in slots if output is not None])
        if rule.number is not None and m_uncond is None:
            assert m is not None
            return m
        given = x if m is None else m
        table, weighted = COMBINING, None
        if rule.number is not None:
            table = with_guidance(COMBINING, rule.number)
        else:
            numbers = known_weights(rule)
            known = None if numbers is None else self._memory.constant(numbers)
            weighted = self._memory.weighted(rule, slots, x, known)
        y = torch.empty_like(given)
        step = registry.choose("solver_step", registry.CallSpec(x.device.type, x.dtype, tuple(x.shape)))
        step(table, 0, x, x, given, m_uncond, [], None, None, None, y, None, None, None, *(weighted or ()))
        return y

    def _output(self, call: int, outputs: Sequence[Tensor | None]) -> Tensor:
        found = outputs[call] if call < len(outputs) else None
        if found is None:
            names = ("conditional", "unconditional", "first further", "second further", "third further")
            raise ValueError(f"outputs: {self.guidance!r} needs the {names[call]} output here, got None")
        return found
