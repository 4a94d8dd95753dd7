"""The error of each step of a run, while it goes on."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ..plans.plan import Plan
from .error_estimate import error_forms
from .measures import rms
from .step_forms import Form, StepForm, Symbol, step_forms

Exact = Callable[[StepForm, Tensor], "Tensor | None"]  # where a step should have led, from its start [B, ...]


class StepErrors:
    """found: [rows] of [B] float64, |reference - x| / (alpha + sigma) at the last row of each step, NaN elsewhere.

    exact: where a step should have led; by `fastdiff.inspection.error_estimate` if None. exchanging: whether samples
    change places, so that what was held of one is no longer of it: then nothing is found.
    """

    def __init__(self, plan: Plan, batch: int, exact: Exact | None, exchanging: bool = False) -> None:
        self.found = [torch.full((batch,), math.nan, dtype=torch.float64) for _ in plan.rows]
        self._exact, self._steps = exact, {step.last: step for step in step_forms(plan)}
        self._forms = error_forms(plan) if exact is None and not exchanging else {}
        needed = [*self._forms.items(), *((step.last, step.start) for step in self._steps.values())]
        # How many rows back anything is read.
        self._reach = max((last + 1 - j for last, form in needed for _, j in form), default=0)
        self._held: dict[Symbol, Tensor] = {}

    def row(self, i: int, before: Tensor, x0: Tensor, base: Tensor, after: Tensor, inexpressible: bool) -> None:
        """Row i has been run. before, after: x. base: the base after it. x0: its data prediction.

        inexpressible: whether the step used another output than it has left in the history.
        """
        self._held["x", i], self._held["x0", i] = before.clone(), x0
        if inexpressible:
            self._forms = {last: f for last, f in self._forms.items() if not self._steps[last].first <= i <= last}
        form = self._forms.get(i - 1)
        if form is not None:
            self._note(i - 1, self._value(form))
        step = self._steps.get(i)
        if step is not None:
            if self._exact is not None:
                exact = self._exact(step, self._value(step.start).to(after.dtype))
                if exact is not None:
                    self._note(i, exact.double() - after.double())
            self._held["base", i + 1] = base.clone()
        for symbol in [symbol for symbol in self._held if symbol[1] <= i - self._reach]:
            del self._held[symbol]

    def _value(self, form: Form) -> Tensor:
        """The sum that the form is of what is held."""
        total = torch.zeros_like(next(iter(self._held.values())), dtype=torch.float64)
        for symbol, weight in form.items():
            total += weight * self._held[symbol].double()
        return total

    def _note(self, i: int, difference: Tensor) -> None:
        self.found[i] = rms(difference).cpu() / sum(self._steps[i].t)
