"""Solvers of flow models, x = (1 - s) x0 + s eps: Euler and Heun."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import diffusers
import numpy as np
import torch
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteSchedulerOutput
from diffusers.schedulers.scheduling_flow_match_heun_discrete import FlowMatchHeunDiscreteSchedulerOutput
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from ..plans.row import LinearUpdate, Row
from ..plans.solvers.adams import adams
from ..plans.solvers.consistency import consistency
from ..plans.solvers.karras import heun
from .fused import Fused
from .points import FLOW, flow_points
from .state import OfRun, RunState
from .table import drawing
from .times import Stretched
from .two_stage import TwoStage

Generators = torch.Generator | list[torch.Generator] | None
Rows = tuple[list[Row], tuple[float, float]]


class InFlow(Fused):
    """timesteps are 1000 s."""

    _needs_steps = False

    def _check_call(self, timestep: object) -> None:
        if isinstance(timestep, int) or (isinstance(timestep, Tensor) and not timestep.is_floating_point()):
            raise ValueError(
                f"timestep: expected an element of scheduler.timesteps, got {timestep!r}; whole numbers, as from"
                " enumerate(timesteps), are not times of this scheduler"
            )


class FlowMatchEulerDiscreteScheduler(Stretched, InFlow, diffusers.FlowMatchEulerDiscreteScheduler):
    """Euler's method on the flow (Lipman et al. 2023, arXiv 2210.02747), or fresh noise after each prediction of x0.

    Steps with times of their own for each token are diffusers' own.
    """

    _keeps = False

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
        per_token_timesteps: Tensor | None = None,
        return_dict: bool = True,
    ) -> FlowMatchEulerDiscreteSchedulerOutput | tuple[Tensor]:
        """The sample [B, ...] at the next time, in model_output's dtype. s_churn and its like change nothing."""
        if per_token_timesteps is not None:
            return super().step(
                model_output, timestep, sample, generator=generator, per_token_timesteps=per_token_timesteps,
                return_dict=return_dict,
            )  # fmt: skip
        self._check_call(timestep)
        new, _ = self._advance(model_output, timestep, sample, generator=generator)
        return FlowMatchEulerDiscreteSchedulerOutput(prev_sample=new) if return_dict else (new,)

    def _rows(self, run: RunState, begin: int, key: tuple[float, ...]) -> Rows:
        points = flow_points(run.levels[begin:])
        end = float(points.alpha[-1]), float(points.sigma[-1])
        if self.config.stochastic_sampling:
            rows = consistency(FLOW, points, "flow_prediction", noise_left=0.0)
            return [drawing(row) for row in rows], end
        return adams(FLOW, points, "flow_prediction", order=1, coordinate="flow"), end

    def _noise(self, run: RunState, i: int, m: Tensor, x: Tensor, generator: Generators) -> Tensor:
        return randn_tensor(x.shape, generator=generator, device=x.device, dtype=torch.float32)


class FlowMatchHeunDiscreteScheduler(InFlow, TwoStage, diffusers.FlowMatchHeunDiscreteScheduler):
    """Heun's method on the flow; with s_churn, diffusers' own step."""

    dt, prev_derivative, sample = OfRun(), OfRun(), OfRun()
    _result = "output"
    _float_times = True

    def _count(
        self, timesteps: Sequence[float] | None = None, sigmas: Sequence[float] | None = None, mu: float | None = None
    ) -> int:
        return len(sigmas if timesteps is None else timesteps)

    def _placed(
        self,
        run: RunState,
        count: int,
        timesteps: Sequence[float] | None = None,
        sigmas: Sequence[float] | None = None,
        mu: float | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        total, shift = self.config.num_train_timesteps, self.config.shift
        if timesteps is not None:
            levels = np.asarray(timesteps, dtype=np.float64) / total
        else:
            last = self.sigma_min / (shift - (shift - 1) * self.sigma_min)
            levels = np.linspace(1, last, count) if sigmas is None else np.asarray(sigmas, dtype=np.float64)
            shift = shift if mu is None else math.exp(mu)
            levels = shift * levels / (1 + (shift - 1) * levels)
        times = np.concatenate([levels[:1], np.repeat(levels[1:], 2)]) * total
        return times, np.append(np.concatenate([levels[:1], np.repeat(levels[1:], 2)]), 0.0)

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
    ) -> FlowMatchHeunDiscreteSchedulerOutput | tuple[Tensor]:
        """Where the model is evaluated next, [B, ...], in model_output's dtype."""
        if s_churn > 0:
            return super().step(
                model_output, timestep, sample, s_churn, s_tmin, s_tmax, s_noise, generator, return_dict
            )  # fmt: skip
        self._check_call(timestep)
        new, _ = self._advance(model_output, timestep, sample)
        return FlowMatchHeunDiscreteSchedulerOutput(prev_sample=new) if return_dict else (new,)

    def _rows(self, run: RunState, begin: int, key: tuple[float, ...]) -> Rows:
        points = flow_points(self._points(run, begin).sigma)
        rows = heun(FLOW, points, "flow_prediction", coordinate="flow", clean_end="euler")
        sigmas = [None, *(row.sigma for row in rows)]
        return [_in_velocity(row, before) for row, before in zip(rows, sigmas, strict=False)], (1.0, 0.0)


def _in_velocity(row: Row, before: float | None) -> Row:
    """A row in data form with D = v instead, x0 = x - s v: near s = 0 its weights stay small.

    before: s at the base, where H_1 comes from.
    """
    line = row.x
    d_0, d_1 = (*line.history, 0.0)[:2]
    history = (-d_0 * row.sigma, -d_1 * before) if d_1 else (-d_0 * row.sigma,)
    line = LinearUpdate(base=line.base + d_1, x=line.x + d_0, history=history)
    return replace(row, form="flow", p_x=0.0, p_m=1.0, x=line)
