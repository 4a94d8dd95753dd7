"""Multistep solvers in lambda: DPM-Solver(++) and its SDEs, their inverses, UniPC and DEIS."""

from __future__ import annotations

import math
from collections.abc import Sequence

import diffusers
import numpy as np
import torch
from diffusers.schedulers.scheduling_utils import SchedulerOutput
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from ..plans.row import LinearUpdate, Row
from ..plans.schedule import Points, Schedule
from ..plans.solvers.deis import deis
from ..plans.solvers.empty import around_empty_steps
from ..plans.solvers.exponential import multistep
from ..plans.solvers.unipc import unipc
from .fused import Fused
from .points import FLOW, VP, flow_points, vp_points
from .state import RunState
from .table import drawing
from .times import FLAGS, FlowTimes, Stretched

Generators = torch.Generator | list[torch.Generator] | None
Rows = tuple[Sequence[Row], tuple[float, float]]
SHORT = 15  # runs of fewer steps end with lower orders


def end_of(points: Points) -> tuple[float, float]:
    """(alpha, sigma) of the last point."""
    return float(points.alpha[-1]), float(points.sigma[-1])


class InLambda(FlowTimes, Fused):
    """A solver on the run's sigmas, of a variance-preserving or a flow schedule."""

    def _points(self, run: RunState, begin: int) -> Points:
        return (flow_points if self._flows else vp_points)(run.levels[begin : len(run.times) + 1])

    @property
    def _flows(self) -> bool:
        return bool(getattr(self.config, "use_flow_sigmas", False))

    def _takes(self, given: dict[str, object]) -> bool:
        return not given or (not self._flows and super()._takes(given))

    @property
    def _schedule(self) -> Schedule:
        return FLOW if self._flows else VP

    def _absent(self, timestep: object) -> int:
        return len(self.timesteps) - 1

    def _rows(self, run: RunState, begin: int, key: tuple[float, ...]) -> Rows:
        points = self._points(run, begin)

        def make(points: Points, places: list[int]) -> Sequence[Row]:
            return self._solver_rows(run, points, [begin + i for i in places])

        return around_empty_steps(points, self.config.prediction_type, make), end_of(points)

    def _solver_rows(self, run: RunState, points: Points, steps: list[int]) -> Sequence[Row]:
        """The rows from each of the points to the next, all of them different; steps: which of the run's they are."""
        raise NotImplementedError


def dpm_rows(scheduler: InLambda, points: Points, steps: int, schedule: Schedule, prediction: str) -> list[Row]:
    """The rows of a multistep DPM-Solver with the options of the scheduler's configuration."""
    config = scheduler.config
    stochastic = config.algorithm_type.startswith("sde")
    options = {
        "order": config.solver_order,
        "form": "data" if config.algorithm_type.endswith("++") else "noise",
        "correction": config.solver_type,
        "eta": float(stochastic),
    }
    lower = bool(config.lower_order_final) and steps < SHORT
    rows = multistep(schedule, points, prediction, lower_order_final=lower, **options)
    if config.euler_at_final:
        rows[-1:] = multistep(schedule, points.at(slice(-2, None)), prediction, **{**options, "order": 1})
    return [drawing(row) for row in rows] if stochastic else rows


class DPMSolverMultistepScheduler(InLambda, diffusers.DPMSolverMultistepScheduler):
    """DPM-Solver and DPM-Solver++ of order 1 to 3, ODE and SDE (Lu et al. 2022, arXiv 2206.00927, 2211.01095)."""

    _own = ("timesteps",)

    def step(
        self,
        model_output: Tensor,
        timestep: int | Tensor,
        sample: Tensor,
        generator: Generators = None,
        variance_noise: Tensor | None = None,
        return_dict: bool = True,
    ) -> SchedulerOutput | tuple[Tensor]:
        """The sample [B, ...] at the next noise level, in model_output's dtype; the inverse's in the wider of both."""
        new, _ = self._advance(model_output, timestep, sample, noise=variance_noise, generator=generator)
        return SchedulerOutput(prev_sample=new) if return_dict else (new,)

    def _solver_rows(self, run: RunState, points: Points, steps: list[int]) -> list[Row]:
        return dpm_rows(self, points, len(run.times), self._schedule, self.config.prediction_type)

    def _noise(self, run: RunState, i: int, m: Tensor, x: Tensor, generator: Generators) -> Tensor:
        return randn_tensor(x.shape, generator=generator, device=m.device, dtype=torch.float32)


class DPMSolverMultistepInverseScheduler(InLambda, diffusers.DPMSolverMultistepInverseScheduler):
    """The multistep DPM-Solvers towards more noise.

    Upwards the SDE is dx = (f x - (1 - eta^2) / 2 g^2 score) dt + eta g dw, and the "sde" algorithms have eta = 1. The
    score has no weight then: it is the noising process, x_t = (alpha_t / alpha_s) x_s + noise, exact in any number of
    steps of any order, and the model's output changes nothing.
    With use_flow_sigmas the levels are DPMSolverMultistepScheduler's the other way round; where those end on clean
    data, these begin at the first training time. `timesteps` and `sigmas` rise too, and the end is the noisiest level.
    """

    _result = "both"
    step = DPMSolverMultistepScheduler.step

    def _takes(self, given: dict[str, object]) -> bool:
        return not self._flows and super()._takes(given)

    def _placed(
        self,
        run: RunState,
        count: int,
        timesteps: Sequence[float] | None = None,
        sigmas: Sequence[float] | None = None,
        mu: float | None = None,
    ) -> tuple[np.ndarray, np.ndarray | None]:
        if not self._flows:
            return super()._placed(run, count, timesteps=timesteps, sigmas=sigmas, mu=mu)
        others = [flag for flag in FLAGS if getattr(self.config, flag, False)]
        if others:
            raise ValueError(f"{others[0]}: expected none beside use_flow_sigmas, which says what the levels are")
        total = self.config.num_train_timesteps
        shift = self.config.flow_shift if mu is None else math.exp(mu)
        own = 1 - np.linspace(1, 1 / total, count + 1)
        own[0] = min(1 / total, own[1] / 2)
        if sigmas is not None:
            own[:-1] = sigmas
        levels = shift * own / (1 + (shift - 1) * own)
        if timesteps is not None:
            levels[:-1] = np.asarray(timesteps) / total
        if levels[0] <= 0 or (np.diff(levels) < 0).any():
            raise ValueError(f"timesteps, sigmas: expected levels that rise from above 0 to {levels[-1]}, got {levels}")
        return levels[:-1] * total, levels

    def _solver_rows(self, run: RunState, points: Points, steps: list[int]) -> list[Row]:
        if not self.config.algorithm_type.startswith("sde"):
            return DPMSolverMultistepScheduler._solver_rows(self, run, points, steps)
        form = "data" if self.config.algorithm_type.endswith("++") else "noise"
        return [_noising(points.at(i), points.at(i + 1), form, self.config.prediction_type) for i in range(len(steps))]


def _noising(s: Points, t: Points, form: str, prediction: str) -> Row:
    """q(x_t | x_s) of the forward process."""
    ratio = float(t.alpha / s.alpha)
    variance = float(t.sigma**2 - (ratio * s.sigma) ** 2)
    if variance < 0:
        raise ValueError(f"sigmas: expected levels that rise, got sigma = {s.sigma:.5g} before {t.sigma:.5g}")
    return Row.at(s, form, prediction, LinearUpdate(x=ratio, noise=((1, math.sqrt(variance)),)))


class UniPCMultistepScheduler(Stretched, InLambda, diffusers.UniPCMultistepScheduler):
    """UniPC of order 1 to 3 (Zhao et al. 2023, arXiv 2302.04867)."""

    _result = "sample"
    _read_by_step = ("disable_corrector", "predict_x0")

    def _takes(self, given: dict[str, object]) -> bool:
        config = self.config
        natively = config.use_flow_sigmas and config.use_dynamic_shifting == ("mu" in given)
        return not given or (natively and "timesteps" not in given)

    def step(
        self,
        model_output: Tensor,
        timestep: int | Tensor,
        sample: Tensor,
        return_dict: bool = True,
        generator: Generators = None,
    ) -> SchedulerOutput | tuple[Tensor]:
        """The sample [B, ...] predicted at the next noise level, from the corrected one at this."""
        if self.solver_p:  # another scheduler predicts
            return super().step(model_output, timestep, sample, return_dict)
        new, _ = self._advance(model_output, timestep, sample)
        return SchedulerOutput(prev_sample=new) if return_dict else (new,)

    def _solver_rows(self, run: RunState, points: Points, steps: list[int]) -> list[Row]:
        config = self.config
        return unipc(
            self._schedule, points, config.prediction_type, order=config.solver_order,
            variant=config.solver_type, form="data" if self.predict_x0 else "noise",
            uncorrected=[i for i, step in enumerate(steps) if step in self.disable_corrector],
            lower_order_final=bool(config.lower_order_final),
        )  # fmt: skip


class DEISMultistepScheduler(InLambda, diffusers.DEISMultistepScheduler):
    """DEIS in log rho, of order 1 to 3 (Zhang & Chen 2023, arXiv 2204.13902)."""

    _result = "both"
    _own = ()

    def step(
        self,
        model_output: Tensor,
        timestep: int | Tensor,
        sample: Tensor,
        return_dict: bool = True,
        generator: Generators = None,
    ) -> SchedulerOutput | tuple[Tensor]:
        """The sample [B, ...] at the next noise level."""
        new, _ = self._advance(model_output, timestep, sample)
        return SchedulerOutput(prev_sample=new) if return_dict else (new,)

    def _solver_rows(self, run: RunState, points: Points, steps: list[int]) -> list[Row]:
        config = self.config
        lower = bool(config.lower_order_final) and len(run.times) < SHORT
        return deis(
            self._schedule, points, config.prediction_type, variable="log_rho", order=config.solver_order,
            lower_order_final=lower,
        )  # fmt: skip
