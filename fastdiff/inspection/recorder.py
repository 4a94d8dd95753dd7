"""What is noted of a run while it goes on: after each row, from the run's own buffers."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Mapping

import torch
from torch import Tensor

from ..plans.plan import Plan
from ..sampling.sample import Step
from .guidance_terms import terms
from .measures import flat, rms
from .path import Path
from .record import TENSORS
from .step_errors import StepErrors


class Recorder:
    """Takes down a run of a plan from its start x. outputs: how many the guidance may have. keep: of how many samples
    tensors are kept. exchanging: whether samples may change places.

    `noted` has what is said of each row or state, by name; `fastdiff.Trace` says what the names mean.
    """

    def __init__(self, plan: Plan, x: Tensor, outputs: int, keep: int, errors: StepErrors, exchanging: bool) -> None:
        self._plan, self._outputs, self._keep, self._errors = plan, outputs, keep, errors
        self._batch, self._device, self._exchanging = len(x), x.device, exchanging
        self._moved = torch.zeros(len(x), dtype=torch.bool, device=x.device)  # to another place since the row before
        self.noted: dict[str, list[Tensor]] = defaultdict(list)
        self.noted["angle"] = [torch.full((len(x),), math.nan, dtype=torch.float64)] * (plan.nfe + 1)
        self._path, self._x0, self._arrived = Path(), torch.full_like(x, math.nan), x.clone()
        self._seen: tuple[Mapping[int, Tensor], float | Tensor | None] = {}, None
        self._began = self._modelled = self._now()

    def see(self, outputs: Mapping[int, Tensor], weights: float | Tensor | None) -> None:
        """Takes the outputs of a row's calls, as the model has given them."""
        self._seen, self._modelled = (outputs, weights), self._now()

    def row(self, step: Step, before: Tensor, base: Tensor) -> None:
        """Notes a row that has been run. before: the state that it evaluated. base: the base after it."""
        ended, (outputs, weights) = self._now(), self._seen
        self._seen = {}, None  # which may hold on to a graph of gradients
        self._note("seconds", torch.tensor([self._modelled - self._began, ended - self._modelled]).double())
        self._note("evaluations", torch.tensor(step.evaluations))
        accepted = step.i == 0 or self._plan.rows[step.i - 1].accepts
        self._state(step.i, before, step.alpha, step.sigma, accepted)
        x0, eps = _predictions(step, before)
        determined = bool(self._plan.rows[step.i].p_m)
        self._note("finite", _finite(before) & (_finite(x0) | (not determined)))
        for name, value in (("x0", x0), ("eps", eps)):
            self._note(f"{name}_rms", rms(value))
            self._note(name, value[: self._keep])
        self._note("change", rms(x0 - self._x0).where(~self._moved, math.nan))
        self._x0 = x0
        if self._outputs:
            for name, number in terms(outputs, weights, self._outputs, self._batch)._asdict().items():
                self._note(name, number)
        pushes = isinstance(weights, Tensor) and weights.ndim == 3 and weights.shape[1] == 2
        self._errors.row(step.i, before, x0, base, step.x, pushes)
        if self._exchanging:
            self._arrived = step.x.clone()
        self._began = self._now()

    def end(self, x: Tensor) -> None:
        """Notes the result."""
        self._state(self._plan.nfe, x, *self._plan.end, True)
        self._note("finite", _finite(x))
        self.noted["error"] = self._errors.found

    def stacked(self) -> dict[str, Tensor]:
        """What `Record` has beside the result, by name; without guidance its terms have no outputs."""
        nothing = torch.zeros(self._plan.nfe, self._batch, 0, dtype=torch.float64)
        return {name: torch.stack(self.noted[name]) if self.noted[name] else nothing for name in TENSORS[1:]}

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()

    def _note(self, name: str, value: Tensor) -> None:
        self.noted[name].append(value.detach().cpu().clone())

    def _state(self, i: int, x: Tensor, alpha: float, sigma: float, accepted: bool) -> None:
        self._note("x_rms", rms(x))
        self._note("x", x[: self._keep])
        if self._exchanging:
            self._moved = flat(x != self._arrived).any(1)
        turn = self._path.turn(i, x, alpha, sigma, self._moved) if accepted else None
        if turn is not None:
            place, angles = turn
            self.noted["angle"][place] = angles.cpu()


def _predictions(step: Step, before: Tensor) -> tuple[Tensor, Tensor]:
    """x0, and eps = (x - alpha x0) / sigma; NaN where the row leaves them undetermined."""
    try:
        x0 = step.x0.clone()
    except ValueError:
        x0 = torch.full_like(before, math.nan)
    if step.alpha == 0:
        return x0, before / step.sigma
    return x0, (before - step.alpha * x0) / step.sigma if step.sigma else torch.full_like(before, math.nan)


def _finite(x: Tensor) -> Tensor:
    """[B] whether all numbers of each sample are."""
    return flat(torch.isfinite(x)).all(1)
