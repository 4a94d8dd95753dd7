"""DPM-Solver singlestep as diffusers counts it: every evaluation is a step, the grid's own points are the stages."""

from __future__ import annotations

import math
from dataclasses import replace

import diffusers
import torch
from diffusers.schedulers.scheduling_utils import SchedulerOutput
from torch import Tensor

from ..plans.row import BASE_UNCHANGED, LinearUpdate, Row
from ..plans.schedule import Points
from ..plans.solvers.empty import around_empty_steps
from ..plans.solvers.exponential import first_order, is_finite, stage_lines
from .multistep import InLambda, Rows, end_of
from .state import OfRun, RunState

Generators = torch.Generator | list[torch.Generator] | None


class DPMSolverSinglestepScheduler(InLambda, diffusers.DPMSolverSinglestepScheduler):
    """DPM-Solver singlestep of order 1 to 3 (Lu et al. 2022, arXiv 2206.00927 algorithms 1, 4, 5; 2211.01095)."""

    order_list = OfRun()
    _result = "both"
    _own = ("timesteps",)

    def step(
        self,
        model_output: Tensor,
        timestep: int | Tensor,
        sample: Tensor,
        generator: Generators = None,
        return_dict: bool = True,
    ) -> SchedulerOutput | tuple[Tensor]:
        """The sample [B, ...] at the next noise level, a stage of a step or its end."""
        new, _ = self._advance(model_output, timestep, sample, generator=generator)
        return SchedulerOutput(prev_sample=new) if return_dict else (new,)

    def _rows(self, run: RunState, begin: int, key: tuple[float, ...]) -> Rows:
        points = self._points(run, begin)
        rows: list[Row] = []
        for size in _blocks(run.order_list[begin : len(run.times)]):
            first = len(rows)
            whole = points.at(slice(first, first + size + 1))
            rows += around_empty_steps(whole, self.config.prediction_type, self._block)
        return rows, end_of(points)

    def _block(self, points: Points, places: list[int]) -> list[Row]:
        """One step: an evaluation at each point but the last."""
        if len(places) > 1 and not is_finite(points.at(0), points.at(-1)):
            # There are no stages on an infinite way: each evaluation is a step.
            return [row for i in range(len(places)) for row in self._block(points.at(slice(i, i + 2)), [i])]
        config = self.config
        size = len(points.t) - 1
        stages, t = [points.at(i) for i in range(size)], points.at(size)
        stochastic = config.algorithm_type.startswith("sde")
        form = "data" if config.algorithm_type.endswith("++") or float(points.alpha[0]) == 0 else "noise"
        if is_finite(stages[0], t):
            length = t.log_snr - stages[0].log_snr
            places = [float((p.log_snr - stages[0].log_snr) / length) for p in stages[1:]]
            r1, r2 = (*places, 1.0, 1.0)[:2]
            lines = stage_lines(stages, t, form, size, config.solver_type, r1, r2, float(stochastic))
        else:
            x_weight, d_weight = (0.0, float(t.alpha)) if stochastic else first_order(stages[0], t, form)
            lines = [LinearUpdate(base=x_weight, history=(d_weight,))]
        rows = []
        for stage, end, line in zip(stages, (*stages[1:], t), lines, strict=True):
            if stochastic:
                line = replace(line, noise=((1, _spread(stages[0], end)),))
            rows.append(Row.at(stage, form, config.prediction_type, line, None if end is t else BASE_UNCHANGED))
        return rows


def _spread(s: Points, t: Points) -> float:
    """The SDE's noise over the whole way from s to t."""
    h = float(t.log_snr - s.log_snr)
    return float(t.sigma) * math.sqrt(-math.expm1(-2 * h)) if t.sigma else 0.0


def _blocks(orders: list[int]) -> list[int]:
    """How many evaluations each step has: the order rises by one with each, and falls back to 1 with a new step."""
    sizes: list[int] = []
    for i, order in enumerate(orders):
        if order == 1 or i == 0:
            sizes.append(1)
        else:
            sizes[-1] += 1
    return sizes
