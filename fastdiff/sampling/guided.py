"""A run under a `Guidance`: at every row the calls that its rule names, and what the step needs to combine them."""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from ..plans.plan import Plan
from .asking import Ask, Asker, Asking, answered
from .guidance_ranks import OutputRanks, check_group
from .model import Model, ModelCalls, check_guidance, check_mode, checked_output, joined
from .network import as_model
from .reuse import PlanReuse
from .rule import Guidance, Point, Rule, See
from .weights import CONDITIONAL, UNCONDITIONAL, Memory, known_weights

PLAIN = Rule()
_rules: dict[tuple[int, int], tuple[weakref.ref[Plan], weakref.ref[Guidance], tuple[Rule, ...]]] = {}


def rules_of(plan: Plan, guidance: Guidance) -> tuple[Rule, ...]:
    """The rule of each row, made once for a plan and a guidance."""
    key = id(plan), id(guidance)
    found = _rules.get(key)
    if found is not None and found[0]() is plan and found[1]() is guidance:
        return found[2]
    rules = tuple(guidance.rule(Point.of(plan, i)) for i in range(plan.nfe))

    kept = _rules  # the module's names may be gone before a plan that outlives it

    def forget(_: object) -> None:
        kept.pop(key, None)

    _rules[key] = weakref.ref(plan, forget), weakref.ref(guidance, forget), rules
    return rules


def calls_of(
    model: Model,
    plan: Plan,
    shape: Sequence[int],
    guidance: float | Tensor | Guidance | None,
    uncond: Mapping[str, object] | None,
    guidance_mode: str,
    kwargs: dict[str, object],
    guidance_group: object = None,
) -> ModelCalls | GuidedCalls:
    """The model calls of a run of the plan. A guidance that is plain everywhere is the number it stands for."""
    if plan.reuses_uncond and not isinstance(guidance, Guidance):
        check_guidance(guidance, uncond, guidance_mode, shape[0], ranks=True)
    guidance = guidance_of(plan, guidance)
    if isinstance(guidance, Guidance):
        return GuidedCalls(model, shape, guidance, plan, uncond, guidance_mode, kwargs, guidance_group)
    return ModelCalls(model, shape, guidance, uncond, guidance_mode, kwargs, guidance_group)


def guidance_of(plan: Plan, guidance: float | Tensor | Guidance | None) -> float | Tensor | Guidance | None:
    """What a run of the plan is guided by: the number that a plain guidance stands for, and the plan's own reuse of u.

    Raises ValueError where the plan reuses unconditional outputs and the guidance is not plain.
    """
    if isinstance(guidance, Guidance):
        scale = plain_scale(plan, guidance)
        guidance = guidance if scale is None else scale
    return PlanReuse.of(guidance) if plan.reuses_uncond else guidance


def plain_scale(plan: Plan, guidance: Guidance) -> float | None:
    """The scale of plain guidance where that is what the guidance is at all rows, else None."""
    found = {(rule.number, rule.calls) for rule in rules_of(plan, guidance)}
    scale, calls = found.pop()
    return scale if not found and calls in ((CONDITIONAL,), (CONDITIONAL, UNCONDITIONAL)) else None


class CallSet(NamedTuple):
    """The calls of a row. together: those that one call of the model makes, the conditional one last. alone: others."""

    together: tuple[int, ...]
    alone: tuple[int, ...]


class GuidedCalls:
    """The model calls of each row under a guidance: the interface of `ModelCalls`.

    model: what is called as model(x, t, **kwargs). guidance: [rows] the scales of plain guidance, 1 in rows that have
    another rule. copies: number of copies of x in the model's input, as many as the largest call reads. arguments: the
    keyword arguments of each call, and those of each call on several inputs at once. evaluations: how often the last
    row evaluated the network for each sample. see: what the outputs are shown to. apart: the processes that make the
    calls, where guidance_mode is "ranks".
    Raises ValueError naming the argument.
    """

    see: See | None = None

    def __init__(
        self,
        model: Model,
        shape: Sequence[int],
        guidance: Guidance,
        plan: Plan,
        uncond: Mapping[str, object] | None,
        guidance_mode: str,
        kwargs: dict[str, object],
        guidance_group: object = None,
    ) -> None:
        check_mode(guidance_mode, ranks=True)
        check_group(guidance_mode, guidance_group)
        if guidance.needs_uncond and uncond is None:
            raise ValueError(f"uncond: {guidance!r} needs the unconditional evaluation's keyword arguments, got None")
        guidance.check(shape)
        self.of = guidance
        self.model, self._shape = as_model(model), tuple(shape)
        self.rules = rules_of(plan, guidance)
        called = {call for rule in self.rules for call in rule.calls if call is not None}
        self.apart = OutputRanks(guidance_group, called) if guidance_mode == "ranks" else None
        self.guidance = np.array([1.0 if rule.number is None else rule.number for rule in self.rules])
        self._sets = {rule.calls: self._set(rule.calls, guidance_mode) for rule in (*self.rules, PLAIN)}
        self.copies = max(1, *(len(calls.together) for calls in self._sets.values()))
        self.arguments = self.new_arguments(uncond or {}, kwargs)
        self._constants: dict[int, Tensor] | None = None
        self.evaluations = 0

    def _set(self, slots: Sequence[int | None], mode: str) -> CallSet:
        last_first = sorted({call for call in slots if call is not None}, key=lambda call: (call == CONDITIONAL, call))
        same = [call for call in last_first if call < 2 or isinstance(self.of.extra[call - 2], Mapping)]
        if mode != "batch" or len(same) < 2:
            return CallSet((), tuple(last_first))
        return CallSet(tuple(same), tuple(call for call in last_first if call not in same))

    def new_arguments(self, uncond: Mapping[str, object], kwargs: dict[str, object]) -> tuple[Any, ...]:
        """`arguments` for other keyword arguments. Raises ValueError naming one that cannot be batched."""
        extra = [{**kwargs, **call} if isinstance(call, Mapping) else kwargs for call in self.of.extra]
        each = [kwargs, {**kwargs, **uncond}, *extra]
        several = [
            joined([each[call] for call in calls.together], self._shape[0]) if calls.together else None
            for calls in self._sets.values()
        ]
        return each, dict(zip(self._sets, several, strict=True))

    def evaluator(self, run: Any) -> GuidedEvaluator:
        """What evaluates the model for this run."""
        return GuidedEvaluator(self, run)

    def asker(self, run: Any) -> Asker:
        """The same as a generator that yields the calls and is sent the model's outputs, see `ModelCalls.asker`."""
        return GuidedEvaluator(self, run).ask

    def ask(self, slots: tuple[int | None, ...], given: Tensor, t: Tensor) -> Asking:
        """The outputs [B, ...] of a rule's calls, by their numbers. given: the model's input, `copies` times over."""
        several = self.arguments[1][slots]
        batch, calls = self._shape[0], self._sets[slots]
        found: dict[int, Tensor] = {}
        if calls.together:
            size = batch * len(calls.together)
            both = checked_output((yield Ask(*_first(given, t, size), several)), (size, *self._shape[1:]))
            for k, call in enumerate(calls.together):
                found[call] = both[k * batch : (k + 1) * batch]
        if self.apart is not None:
            found = self.apart.outputs(
                calls.alone, lambda call: answered(self._alone(call, given, t), self.model), self._shape, given.device
            )
        else:
            for call in calls.alone:
                m = yield from self._alone(call, given, t)
                # A model may reuse its output's buffer in its next call.
                found[call] = m if call == calls.alone[-1] else m.clone()
        self.evaluations = len(found)
        return found

    def _alone(self, call: int, given: Tensor, t: Tensor) -> Asking:
        """The output of a call on one copy of x. Another model than the run's answers at once."""
        batch, arguments = self._shape[0], self.arguments[0][call]
        other = self.of.extra[call - 2] if call > 1 else None
        if callable(other):
            return checked_output(as_model(other)(*_first(given, t, batch), **arguments), self._shape)
        return checked_output((yield Ask(*_first(given, t, batch), arguments)), self._shape)

    def constants(self, memory: Memory) -> dict[int, Tensor]:
        """The weights of rows whose weights are known, made once: while a graph is captured nothing can be copied."""
        if self._constants is None:
            numbers = ((i, known_weights(rule)) for i, rule in enumerate(self.rules))
            self._constants = {i: memory.constant(weights) for i, weights in numbers if weights is not None}
        return self._constants


def _first(given: Tensor, t: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """The first `size` samples of the model's input and times."""
    return (given, t) if len(given) == size else (given[:size], t[:size])


class ByRow:
    """An evaluator that reads the number of the run's next row, which a run without bounds does not keep otherwise."""


class GuidedEvaluator(ByRow):
    """A run's evaluations: (model_input, t) -> (m, m_uncond, noises, `Weighted` or None), as `Run.apply` has it."""

    def __init__(self, calls: GuidedCalls, run: Any) -> None:
        self._calls, self._run = calls, run
        self._memory = Memory(calls.of, run.x, run.shard)
        self._known = calls.constants(self._memory)

    def __call__(self, given: Tensor, t: Tensor) -> tuple:
        return answered(self.ask(given, t), self._calls.model)

    def ask(self, given: Tensor, t: Tensor) -> Asking:
        """The evaluation as a generator, see `GuidedCalls.asker`."""
        run, memory = self._run, self._memory
        rule = PLAIN if memory.stopped else self._calls.rules[run.i]
        outputs = yield from self._calls.ask(rule.calls, given, t)
        slots = memory.slots(rule, outputs)
        weighted = None
        if rule.combine is None and rule.number is None:
            weighted = memory.weighted(rule, slots, run.x, self._known.get(run.i))
        if self._calls.see is not None:
            self._calls.see(outputs, rule.number if weighted is None else weighted.weights)
        if rule.combine is not None:
            return rule.combine(run.x, [m for m in slots if m is not None]), None
        if weighted is None:
            return slots[0], slots[1]
        # Where no output has weight there is none: x stands in for it, with the weight 0.
        return run.x if slots[0] is None else slots[0], slots[1], (), weighted
