"""Solvers on whole training times, whose step depends on its time alone: DDIM, its inverse, and DDPM."""

from __future__ import annotations

import math
from dataclasses import replace

import diffusers
import numpy as np
import torch
from diffusers.schedulers.scheduling_ddim import DDIMSchedulerOutput
from diffusers.schedulers.scheduling_ddim_inverse import DDIMSchedulerOutput as DDIMInverseOutput
from diffusers.schedulers.scheduling_ddpm import DDPMSchedulerOutput
from torch import Tensor

from ..plans.row import Row
from ..plans.schedule import Points
from ..plans.solvers.ancestral import ddim_row, step_down
from .fused import Fused
from .state import RunState
from .table import attempt, bounded_starts, drawing, of_both
from .times import TimesAlone

Generators = torch.Generator | list[torch.Generator] | None


class ByTime(TimesAlone, Fused):
    """A step is known by its time alone, in any order and any number; times that are not in timesteps serve too."""

    _result = "both"
    _second = "d"

    _read_by_step = ("alphas_cumprod", "final_alpha_cumprod")

    def _find(self, timestep: object, sample: Tensor) -> RunState:
        threads = self._threads
        self._require_steps(threads.run)
        for run in threads.runs:
            place = run.place(timestep)
            if place is not None:
                break
        else:
            run = threads.run
            place = self._place(run, int(timestep))
            if place is None:
                run = run.again()
                run.times, place = np.array([float(timestep)]), 0
        if run.times is None:
            self._prepare(run)
        run.begin, run._step_index, run.lower_order_nums = 0, place, place
        run.model_outputs = [None]
        return run

    def _custom(self, run: RunState) -> bool:
        """Whether the times are the caller's, each step's end the next of them."""
        return getattr(run, "custom_timesteps", False) and len(run.times) == len(run.timesteps)

    def _place(self, run: RunState, time: int) -> int | None:
        if run.times is None:
            self._prepare(run)
        found = np.flatnonzero(run.times == time)
        return int(found[0]) if len(found) else None

    @property
    def _clamp(self) -> float | None:
        config = self.config
        return config.clip_sample_range if config.clip_sample and not getattr(config, "thresholding", False) else None


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
        if eta > 0 and variance_noise is not None and generator is not None:
            raise ValueError("variance_noise: expected no generator beside it, got both")
        new, x0 = self._advance(
            model_output, timestep, sample, noise=variance_noise, generator=generator,
            key=(eta, float(bool(use_clipped_model_output))),
        )  # fmt: skip
        x0 = x0.to(new.dtype)
        return DDIMSchedulerOutput(prev_sample=new, pred_original_sample=x0) if return_dict else (new, x0)

    def _rows(self, run: RunState, begin: int, key: tuple[float, ...]) -> tuple:
        eta, reuse = key
        config = self.config
        prediction = config.prediction_type
        after = run.times - config.num_train_timesteps // run.num_inference_steps
        if self._custom(run):
            after = np.append(run.times[1:], -1.0)
        starts, ends = (run.at(times) for times in (run.times, after))
        bounded = config.clip_sample or config.thresholding
        if bounded:
            starts = bounded_starts(starts)

        def make(s: Points, t: Points) -> Row:
            if bounded and not reuse:
                row = of_both(s, t, prediction, *step_down(s, t, eta))
            else:
                row = ddim_row(s, t, prediction, 1, eta)
            return drawing(row) if eta > 0 else row

        rows = [attempt(lambda i=i: make(starts.at(i), ends.at(i))) for i in range(len(starts.t))]
        return rows, (float(ends.alpha[-1]), float(ends.sigma[-1]))


class DDIMInverseScheduler(ByTime, diffusers.DDIMInverseScheduler):
    """DDIM towards more noise."""

    _final = "initial_alpha_cumprod"
    _read_by_step = ("alphas_cumprod", "initial_alpha_cumprod")

    def step(
        self,
        model_output: Tensor,
        timestep: int | Tensor,
        sample: Tensor,
        return_dict: bool = True,
        generator: Generators = None,
    ) -> DDIMInverseOutput | tuple[Tensor, Tensor]:
        """(the sample at `timestep`, x0), each [B, ...], from a sample one step less noisy."""
        new, x0 = self._advance(model_output, timestep, sample)
        x0 = x0.to(new.dtype)
        return DDIMInverseOutput(prev_sample=new, pred_original_sample=x0) if return_dict else (new, x0)

    def _rows(self, run: RunState, begin: int, key: tuple[float, ...]) -> tuple:
        config = self.config
        total = config.num_train_timesteps
        before = np.minimum(run.times - total // run.num_inference_steps, total - 1)
        if self._custom(run):
            before = np.append(-1.0, run.times[:-1])
        starts, ends = (run.at(times) for times in (before, run.times))
        if self._clamp:
            starts = bounded_starts(starts)
        steps = range(len(starts.t))
        rows = [attempt(lambda i=i: of_both(starts.at(i), ends.at(i), config.prediction_type)) for i in steps]
        return rows, (float(ends.alpha[-1]), float(ends.sigma[-1]))


class DDPMScheduler(ByTime, diffusers.DDPMScheduler):
    """The posterior of the diffusion process (Ho et al. 2020, arXiv 2006.11239, eq. 7)."""

    _final = "one"
    _needs_steps = False
    _read_by_step = ("alphas_cumprod", "one", "variance_type")

    def step(
        self,
        model_output: Tensor,
        timestep: int | Tensor,
        sample: Tensor,
        generator: Generators = None,
        return_dict: bool = True,
    ) -> DDPMSchedulerOutput | tuple[Tensor, Tensor]:
        """(the sample at the previous time, x0), each [B, ...]."""
        predicted = None
        if self.variance_type in ("learned", "learned_range") and model_output.shape[1] == 2 * sample.shape[1]:
            model_output, predicted = model_output.chunk(2, dim=1)
        new, x0 = self._advance(model_output, timestep, sample, generator=generator, predicted=predicted)
        x0 = x0.to(new.dtype)
        return DDPMSchedulerOutput(prev_sample=new, pred_original_sample=x0) if return_dict else (new, x0)

    def _rows(self, run: RunState, begin: int, key: tuple[float, ...]) -> tuple:
        starts, ends = self._pairs(run)

        def make(s: Points, t: Points) -> Row:
            row = ddim_row(s, t, self.config.prediction_type, 1, 1.0)
            noise = ((1, self._spread(s, t)),) if s.t > 0 else ()
            return replace(row, x=replace(row.x, noise=noise))

        if self._clamp or self._threshold:
            starts = bounded_starts(starts)
        rows = [attempt(lambda i=i: make(starts.at(i), ends.at(i))) for i in range(len(starts.t))]
        return rows, (1.0, 0.0)

    def _pairs(self, run: RunState) -> tuple[Points, Points]:
        """Where each step begins and ends: at the next of its times."""
        listed = len(run.times) == len(run.timesteps)
        after = np.append(run.times[1:], -1.0) if listed else run.times - 1
        return run.at(run.times), run.at(after)

    def _spread(self, s: Points, t: Points) -> float:
        """The standard deviation of the noise; 1 where the model predicts it."""
        if self.variance_type.startswith("learned"):
            return 1.0
        small, large = _variances(s, t)
        return math.sqrt(large if self.config.variance_type.startswith("fixed_large") else small)

    def _deviation(self, run: RunState, i: int, predicted: Tensor) -> Tensor:
        """[B, ...] the standard deviation that the model predicts (Nichol & Dhariwal 2021, eq. 15)."""
        if self.variance_type == "learned":
            return predicted.sqrt()
        small, large = (math.log(v) for v in _variances(*(points.at(i) for points in self._pairs(run))))
        return torch.exp(0.25 * (predicted + 1) * (large - small) + 0.5 * small)


def _variances(s: Points, t: Points) -> tuple[float, float]:
    """The posterior's variance and beta, the least and the most that the noise may have."""
    beta = 1 - float(s.alpha / t.alpha) ** 2
    return max(beta * float(t.sigma / s.sigma) ** 2, 1e-20), beta
