"""Schedulers with EDM's preconditioning (Karras et al. 2022, arXiv 2206.00364, table 1)."""

from __future__ import annotations

from collections.abc import Sequence

import diffusers
import numpy as np
import torch
from diffusers.schedulers.scheduling_edm_euler import EDMEulerSchedulerOutput
from diffusers.schedulers.scheduling_utils import SchedulerOutput
from torch import Tensor

from ..plans.row import Row
from ..plans.schedule import Points
from ..plans.solvers.ancestral import ddim_row
from .multistep import InLambda, dpm_rows
from .noise_level import InNoiseLevel
from .points import EDM
from .state import RunState
from .table import preconditioned, reading_x0

Generators = torch.Generator | list[torch.Generator] | None


class Preconditioned(InNoiseLevel):
    """x0 = c_skip x + c_out m, and the model reads c_in x."""

    def _precondition(self, row: Row) -> Row:
        config = self.config
        sign = {"epsilon": 1.0, "v_prediction": -1.0}.get(config.prediction_type)
        if sign is None:
            raise ValueError(f"prediction_type: expected epsilon or v_prediction, got {config['prediction_type']}")
        data, total = config.sigma_data, row.sigma**2 + config.sigma_data**2
        return preconditioned(row, data**2 / total, sign * row.sigma * data / total**0.5)

    _own = ()

    def _placed(
        self,
        run: RunState,
        count: int,
        timesteps: Sequence[float] | None = None,
        sigmas: Sequence[float] | None = None,
        mu: float | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        levels = run.sigmas.double().cpu().numpy()
        if timesteps is not None:
            levels = np.append(np.exp(4 * np.asarray(timesteps, dtype=np.float64)), levels[-1])
        elif sigmas is not None:
            levels = np.asarray(sigmas, dtype=np.float64)
        return 0.25 * np.log(levels[:-1]), levels

    def _scales(self, run: RunState) -> list[float]:
        return ((run.levels**2 + self.config.sigma_data**2) ** -0.5).tolist()


class EDMEulerScheduler(Preconditioned, diffusers.EDMEulerScheduler):
    """Euler's method; with s_churn, diffusers' own step."""

    def step(
        self,
        model_output: Tensor,
        timestep: float | Tensor,
        sample: Tensor,
        s_churn: float = 0.0,
        s_tmin: float = 0.0,
        s_tmax: float = float("inf"),
        s_noise: float = 1.0,
        generator: Generators = None,
        return_dict: bool = True,
        pred_original_sample: Tensor | None = None,
    ) -> EDMEulerSchedulerOutput | tuple[Tensor, Tensor]:
        """(the sample at the next noise level in model_output's dtype, x0), each [B, ...]."""
        if s_churn > 0:
            return super().step(
                model_output, timestep, sample, s_churn, s_tmin, s_tmax, s_noise, generator, return_dict,
                pred_original_sample,
            )  # fmt: skip
        self._check_call(timestep)
        given = pred_original_sample is not None
        m = pred_original_sample if given else model_output
        new, x0 = self._advance(m, timestep, sample, key=(1.0,) if given else ())
        return EDMEulerSchedulerOutput(prev_sample=new, pred_original_sample=x0) if return_dict else (new, x0)

    def _rows(self, run: RunState, begin: int, key: tuple[float, ...]) -> tuple[list[Row], tuple[float, float]]:
        points = self._points(run, begin)
        steps = range(len(points.t) - 1)
        rows = [ddim_row(points.at(i), points.at(i + 1), "sample", 1) for i in steps]
        rows = [reading_x0(row) if key else self._precondition(row) for row in rows]
        return rows, (1.0, float(points.sigma[-1]))


class EDMDPMSolverMultistepScheduler(Preconditioned, InLambda, diffusers.EDMDPMSolverMultistepScheduler):
    """DPM-Solver++ of order 1 to 3, ODE and SDE (Lu et al. 2022, arXiv 2211.01095)."""

    _result = "both"
    _second = None
    _needs_steps = True

    def step(
        self,
        model_output: Tensor,
        timestep: float | Tensor,
        sample: Tensor,
        generator: Generators = None,
        return_dict: bool = True,
    ) -> SchedulerOutput | tuple[Tensor]:
        """The sample [B, ...] at the next noise level."""
        new, _ = self._advance(model_output, timestep, sample, generator=generator)
        return SchedulerOutput(prev_sample=new) if return_dict else (new,)

    _rows = InLambda._rows

    def _solver_rows(self, run: RunState, points: Points, steps: list[int]) -> list[Row]:
        return [self._precondition(row) for row in dpm_rows(self, points, len(run.times), EDM, "sample")]
