"""Solvers in the noise level s, for x = x0 + s eps: Euler's."""

from __future__ import annotations

import diffusers
import torch
from diffusers.schedulers.scheduling_euler_discrete import EulerDiscreteSchedulerOutput
from diffusers.utils import logging
from torch import Tensor

from ..schedule import Points
from ..solvers.ancestral import ddim_row
from .fused import Fused
from .points import level_points
from .state import RunState
from .table import in_noise_level

Generators = torch.Generator | list[torch.Generator] | None
logger = logging.get_logger(__name__)


class InNoiseLevel(Fused):
    """A solver whose model reads x / sqrt(1 + s^2)."""

    def scale_model_input(self, sample: Tensor, timestep: float | Tensor) -> Tensor:
        """[B, ...] what the model reads at this step."""
        run = self._threads.run
        place = run.place(timestep)
        if place is None:
            if run._step_index is None:
                self._begin(run, None, timestep)
            place = run._step_index
        if run.scales is None:
            self._prepare(run)
            run.scales = (1 / (run.levels**2 + 1) ** 0.5).tolist()
        self.is_scale_input_called = True
        return sample * run.scales[place]

    def _points(self, run: RunState, begin: int) -> Points:
        return level_points(run.levels[begin:])

    def _check_call(self, timestep: object) -> None:
        if isinstance(timestep, int) or (isinstance(timestep, Tensor) and not timestep.is_floating_point()):
            raise ValueError(
                f"timestep: expected an element of scheduler.timesteps, got {timestep!r}; whole numbers, as from"
                " enumerate(timesteps), are not times of this scheduler"
            )
        if not self.is_scale_input_called:
            logger.warning("scale_model_input was not called before step: the model's input has the wrong scale")


class EulerDiscreteScheduler(InNoiseLevel, diffusers.EulerDiscreteScheduler):
    """Euler's method (Karras et al. 2022, arXiv 2206.00364, algorithm 2)."""

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
        self._check_call(timestep)
        new, x0 = self._advance(model_output, timestep, sample)
        return EulerDiscreteSchedulerOutput(prev_sample=new, pred_original_sample=x0) if return_dict else (new, x0)

    def _rows(self, run: RunState, begin: int, key: object) -> tuple:
        prediction = self._internal_dict["prediction_type"]
        prediction = "sample" if prediction == "original_sample" else prediction
        points = self._points(run, begin)
        steps = range(len(points.t) - 1)
        rows = [in_noise_level(ddim_row(points.at(i), points.at(i + 1), "sample", 1), prediction) for i in steps]
        return rows, (1.0, float(points.sigma[-1]))
