"""Solvers on whole training times, each step from t to the time that t itself names: DDIM."""

from __future__ import annotations

import diffusers
import numpy as np
import torch
from diffusers.schedulers.scheduling_ddim import DDIMSchedulerOutput
from torch import Tensor

from ..schedule import Points
from ..solvers.ancestral import ddim_row
from .fused import Fused
from .points import cumulative_points
from .state import RunState
from .table import drawing, keeping_output

Generators = torch.Generator | list[torch.Generator] | None


class ByTime(Fused):
    """A step depends on its time alone: there is no counter and no history."""

    _result_like_output = False
    _bounds_x0 = True

    def _begins(self, run: RunState, place: int | None, timestep: object) -> bool:
        return True


class DDIMScheduler(ByTime, diffusers.DDIMScheduler):
    """DDIM with any eta (Song et al. 2021, arXiv 2010.02502, eq. 12)."""

    def step(
        self,
        model_output: Tensor,
        timestep: int | Tensor,
        sample: Tensor,
        eta: float = 0.0,
        use_clipped_model_output: bool = False,
        generator: Generators = None,
        variance_noise: Tensor | None = None,
        return_dict: bool = True,
    ) -> DDIMSchedulerOutput | tuple[Tensor, Tensor]:
        """(the sample at the previous time, x0), each [B, ...]."""
        if self.num_inference_steps is None:
            raise ValueError("num_inference_steps: expected set_timesteps to be called before step")
        if eta > 0 and variance_noise is not None and generator is not None:
            raise ValueError("variance_noise: expected no generator beside it, got both")
        new, x0 = self._advance(
            model_output, timestep, sample, noise=variance_noise, generator=generator,
            key=(eta, bool(use_clipped_model_output)),
        )  # fmt: skip
        return DDIMSchedulerOutput(prev_sample=new, pred_original_sample=x0) if return_dict else (new, x0)

    @property
    def _clamp(self) -> float | None:
        config = self._internal_dict
        return config["clip_sample_range"] if config["clip_sample"] and not config["thresholding"] else None

    def _pairs(self, run: RunState, begin: int) -> tuple[Points, Points]:
        """Where each step begins and ends."""
        table = np.append(self.alphas_cumprod.double().cpu().numpy(), float(self.final_alpha_cumprod))
        times = run.times[begin:].astype(int)
        previous = times - self._internal_dict["num_train_timesteps"] // run.num_inference_steps
        previous = np.where(previous < 0, len(table) - 1, previous)
        return cumulative_points(times, table[times]), cumulative_points(previous, table[previous])

    def _rows(self, run: RunState, begin: int, key: tuple) -> tuple:
        eta, reuse = key
        config = self._internal_dict
        prediction = config["prediction_type"]
        starts, ends = self._pairs(run, begin)
        bounded = config["clip_sample"] or config["thresholding"]
        rows = []
        for i in range(len(starts.t)):
            row = ddim_row(starts.at(i), ends.at(i), prediction, 1, eta)
            row = drawing(row) if eta > 0 else row
            rows.append(keeping_output(row, prediction) if bounded and not reuse else row)
        return rows, (float(ends.alpha[-1]), float(ends.sigma[-1]))
