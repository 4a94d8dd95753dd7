"""Multistep solvers in lambda: DPM-Solver(++) and its SDEs, their inverses, UniPC and DEIS."""

from __future__ import annotations

from collections.abc import Sequence

import diffusers
import torch
from diffusers.schedulers.scheduling_utils import SchedulerOutput
from torch import Tensor

from ..plan import Row
from ..schedule import Points
from ..solvers.exponential import multistep
from .fused import Fused
from .points import FLOW, VP, flow_points, vp_points
from .state import RunState
from .table import drawing

Generators = torch.Generator | list[torch.Generator] | None
Rows = tuple[Sequence[Row], tuple[float, float]]
SHORT = 15  # runs of fewer steps end with lower orders


def end_of(points: Points) -> tuple[float, float]:
    """(alpha, sigma) of the last point."""
    return float(points.alpha[-1]), float(points.sigma[-1])


class InLambda(Fused):
    """A solver on the run's sigmas, of a variance-preserving or a flow schedule."""

    def _points(self, run: RunState, begin: int) -> Points:
        flows = self._internal_dict.get("use_flow_sigmas")
        return (flow_points if flows else vp_points)(run.levels[begin:])

    def _schedule(self) -> object:
        return FLOW if self._internal_dict.get("use_flow_sigmas") else VP

    def _absent(self, timestep: object) -> int:
        return len(self.timesteps) - 1


class DPMSolverMultistepScheduler(InLambda, diffusers.DPMSolverMultistepScheduler):
    """DPM-Solver and DPM-Solver++ of order 1 to 3, ODE and SDE (Lu et al. 2022, arXiv 2206.00927, 2211.01095)."""

    def step(
        self,
        model_output: Tensor,
        timestep: int | Tensor,
        sample: Tensor,
        generator: Generators = None,
        variance_noise: Tensor | None = None,
        return_dict: bool = True,
    ) -> SchedulerOutput | tuple[Tensor]:
        """The sample [B, ...] at the next noise level, in model_output's dtype."""
        new, _ = self._advance(model_output, timestep, sample, noise=variance_noise, generator=generator)
        return SchedulerOutput(prev_sample=new) if return_dict else (new,)

    def _rows(self, run: RunState, begin: int, key: object) -> Rows:
        config = self._internal_dict
        algorithm = config["algorithm_type"]
        stochastic = algorithm.startswith("sde")
        points = self._points(run, begin)
        short = len(run.times) < SHORT
        options = {
            "order": config["solver_order"],
            "form": "data" if algorithm.endswith("++") else "noise",
            "correction": config["solver_type"],
            "eta": float(stochastic),
        }
        lower = bool(config["lower_order_final"]) and short
        rows = multistep(
            self._schedule(), points, config["prediction_type"], lower_order_final=lower, **options
        )  # fmt: skip
        if config["euler_at_final"]:
            last = points.at(slice(-2, None))
            rows[-1:] = multistep(self._schedule(), last, config["prediction_type"], **{**options, "order": 1})
        return [drawing(row) for row in rows] if stochastic else rows, end_of(points)

    def _noise(self, m: Tensor, generator: Generators) -> Tensor:
        return super()._noise(m.float(), generator) if m.dtype != torch.float32 else super()._noise(m, generator)
