"""Solvers in the noise level s with one evaluation a step, for x = x0 + s eps: Euler, its ancestral form, and LMS."""

from __future__ import annotations

from dataclasses import replace

import diffusers
import torch
from diffusers.schedulers.scheduling_euler_ancestral_discrete import EulerAncestralDiscreteSchedulerOutput
from diffusers.schedulers.scheduling_euler_discrete import EulerDiscreteSchedulerOutput
from diffusers.schedulers.scheduling_lms_discrete import LMSDiscreteSchedulerOutput
from diffusers.utils import logging
from torch import Tensor

from ..plans.row import LinearUpdate, Row
from ..plans.schedule import Points
from ..plans.solvers.adams import adams
from ..plans.solvers.ancestral import ddim_row
from ..plans.solvers.empty import around_empty_steps
from .fused import Fused
from .points import EDM, level_points
from .state import RunState
from .table import drawing, in_noise_level
from .traced import traced_scale

Generators = torch.Generator | list[torch.Generator] | None
logger = logging.get_logger(__name__)


class InNoiseLevel(Fused):
    """A solver whose model reads c_in x."""

    _second = "d"
    _needs_steps = False
    _float_times = True

    def scale_model_input(self, sample: Tensor, timestep: float | Tensor) -> Tensor:
        """c_in x, [B, ...]: what the model reads at this step."""
        self.is_scale_input_called = True
        if torch.compiler.is_compiling():
            return traced_scale(self, sample, timestep)
        run = self._threads.run
        continues = run.last is not None and run.last() is sample
        if not continues:
            run = self._run_of(timestep)
        self._refresh(run)
        place = run._step_index if continues else self._place(run, timestep)
        dtype = torch.float64 if sample.dtype is torch.float64 else torch.float32
        if run.scales is None or run.scales[0].dtype is not dtype:
            run.scales = self._kept(run, dtype, lambda: self._scalars(run, dtype))
        return sample * run.scales[place]

    def _run_of(self, timestep: float | Tensor) -> RunState:
        """The run that has this very element of timesteps, or the current one."""
        return next((run for run in self._threads.runs if run.place(timestep) is not None), self._threads.run)

    def _place(self, run: RunState, timestep: float | Tensor) -> int:
        """Which step of the run will read the model's output."""
        place = run.place(timestep)
        if place is None:
            if run._step_index is None:
                self._begin(run, None, timestep)
            return run._step_index
        if run._step_index is None:
            return self._index_of(run.times[place], run.times) if run._begin_index is None else run._begin_index
        waits = not run.over and run.times[place] == run.times[run._step_index]
        return run._step_index if waits else place

    def _scalars(self, run: RunState, dtype: torch.dtype) -> tuple[Tensor, ...]:
        """`_scales` as CPU tensors, which torch multiplies by in half the time that it takes for numbers."""
        with torch.inference_mode(False):
            return torch.tensor(self._scales(run), dtype=dtype, device="cpu").unbind()

    def _scales(self, run: RunState) -> list[float]:
        """c_in = (1 + s^2)^-1/2 where each step evaluates the model."""
        return [(1 + row.sigma**2) ** -0.5 for row in self._level_rows(self._points(run, 0), ())]

    def _points(self, run: RunState, begin: int) -> Points:
        return level_points(run.levels[begin:])

    def _level_rows(self, points: Points, key: tuple[float, ...]) -> list[Row]:
        """The solver's rows for a model that gives x0."""
        raise NotImplementedError

    def _rows(self, run: RunState, begin: int, key: tuple[float, ...]) -> tuple[list[Row], tuple[float, float]]:
        prediction = self.config.prediction_type
        prediction = "sample" if prediction == "original_sample" else prediction
        points = self._points(run, begin)
        rows = [in_noise_level(row, prediction) for row in self._level_rows(points, key)]
        return rows, (1.0, float(points.sigma[-1]))

    def _check_call(self, timestep: object) -> None:
        if isinstance(timestep, int) or (isinstance(timestep, Tensor) and not timestep.is_floating_point()):
            raise ValueError(
                f"timestep: expected an element of scheduler.timesteps, got {timestep!r}; whole numbers, as from"
                " enumerate(timesteps), are not times of this scheduler"
            )
        if not self.is_scale_input_called:
            logger.warning("scale_model_input was not called before step: the model's input has the wrong scale")


class EulerDiscreteScheduler(InNoiseLevel, diffusers.EulerDiscreteScheduler):
    """Euler's method (Karras et al. 2022, arXiv 2206.00364, algorithm 2); with s_churn, diffusers' own step."""

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
    ) -> EulerDiscreteSchedulerOutput | tuple[Tensor, Tensor]:
        """(the sample at the next noise level in model_output's dtype, x0), each [B, ...]."""
        if s_churn > 0:
            return super().step(
                model_output, timestep, sample, s_churn, s_tmin, s_tmax, s_noise, generator, return_dict
            )  # fmt: skip
        self._check_call(timestep)
        new, x0 = self._advance(model_output, timestep, sample)
        return EulerDiscreteSchedulerOutput(prev_sample=new, pred_original_sample=x0) if return_dict else (new, x0)

    def _level_rows(self, points: Points, key: tuple[float, ...]) -> list[Row]:
        return [ddim_row(points.at(i), points.at(i + 1), "sample", 1) for i in range(len(points.t) - 1)]


class EulerAncestralDiscreteScheduler(InNoiseLevel, diffusers.EulerAncestralDiscreteScheduler):
    """Euler's method to below the next level, and fresh noise back up to it (k-diffusion's sample_euler_ancestral)."""

    def step(
        self,
        model_output: Tensor,
        timestep: float | Tensor,
        sample: Tensor,
        generator: Generators = None,
        return_dict: bool = True,
    ) -> EulerAncestralDiscreteSchedulerOutput | tuple[Tensor, Tensor]:
        """(the sample at the next noise level in model_output's dtype, x0), each [B, ...]."""
        self._check_call(timestep)
        new, x0 = self._advance(model_output, timestep, sample, generator=generator)
        if not return_dict:
            return new, x0
        return EulerAncestralDiscreteSchedulerOutput(prev_sample=new, pred_original_sample=x0)

    def _level_rows(self, points: Points, key: tuple[float, ...]) -> list[Row]:
        steps = range(len(points.t) - 1)
        return [drawing(ddim_row(points.at(i), points.at(i + 1), "sample", 1, 1.0)) for i in steps]


class LMSDiscreteScheduler(InNoiseLevel, diffusers.LMSDiscreteScheduler):
    """Linear multistep in s (k-diffusion's sample_lms)."""

    _second = "base"
    _result = "both"

    def step(
        self,
        model_output: Tensor,
        timestep: float | Tensor,
        sample: Tensor,
        order: int = 4,
        return_dict: bool = True,
        generator: Generators = None,
    ) -> LMSDiscreteSchedulerOutput | tuple[Tensor, Tensor]:
        """(the sample at the next noise level, x0), each [B, ...]."""
        if not self.is_scale_input_called:
            self._check_call(timestep)
        new, x0 = self._advance(model_output, timestep, sample, key=(order,))
        x0 = x0.to(new.dtype)
        return LMSDiscreteSchedulerOutput(prev_sample=new, pred_original_sample=x0) if return_dict else (new, x0)

    def _level_rows(self, points: Points, key: tuple[float, ...]) -> list[Row]:
        """D is eps; x0 = x - s eps is what the second line of each row gives. D of an empty step is x0."""
        order = min(int(key[0]) if key else 4, len(points.t) - 1)

        def make(points: Points, places: list[int]) -> list[Row]:
            return adams(EDM, points, "sample", order=order, coordinate="sigma", lower_order_final=False)

        x0 = {
            "noise": lambda row: LinearUpdate(x=1.0, history=(-row.sigma,)),
            "data": lambda row: LinearUpdate(history=(1.0,)),
        }
        rows = around_empty_steps(points, "sample", make)
        return [replace(row, base=x0[row.form](row)) for row in rows]
