"""Sampling of distilled models: latent consistency models and trajectory consistency distillation."""

from __future__ import annotations

import math
from dataclasses import replace

import diffusers
import numpy as np
import torch
from diffusers.schedulers.scheduling_lcm import LCMSchedulerOutput
from diffusers.schedulers.scheduling_tcd import TCDSchedulerOutput
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from ..plans.row import LinearUpdate, Row
from ..plans.schedule import Points
from ..plans.solvers.ancestral import ddim_row
from ..plans.solvers.churn import renoised
from ..plans.solvers.consistency import consistency
from .fused import Fused
from .points import VP
from .state import RunState
from .table import bounded_starts
from .times import TimesAlone

Generators = torch.Generator | list[torch.Generator] | None
Rows = tuple[list[Row], tuple[float, float]]


class Distilled(TimesAlone, Fused):
    """Each step maps to data, or most of the way there, and back up to the next of the times."""

    _result = "both"
    _second = "base"
    _keeps = False
    _read_by_step = ("alphas_cumprod", "final_alpha_cumprod")

    def _noise(self, run: RunState, i: int, m: Tensor, x: Tensor, generator: Generators) -> Tensor:
        dtype = m.dtype if m.dtype == x.dtype else torch.promote_types(m.dtype, x.dtype)
        return randn_tensor(x.shape, generator=generator, device=m.device, dtype=dtype)


class LCMScheduler(Distilled, diffusers.LCMScheduler):
    """Multistep consistency sampling (Luo et al. 2023, arXiv 2310.04378, algorithm 3)."""

    def step(
        self,
        model_output: Tensor,
        timestep: int | Tensor,
        sample: Tensor,
        generator: Generators = None,
        return_dict: bool = True,
    ) -> LCMSchedulerOutput | tuple[Tensor, Tensor]:
        """(the sample at the next time, the data without its noise), each [B, ...]."""
        new, clean = self._advance(model_output, timestep, sample, generator=generator)
        clean = clean.to(new.dtype)
        return LCMSchedulerOutput(prev_sample=new, denoised=clean) if return_dict else (new, clean)

    @property
    def _clamp(self) -> float | None:
        config = self.config
        return config.clip_sample_range if config.clip_sample and not config.thresholding else None

    def _rows(self, run: RunState, begin: int, key: tuple[float, ...]) -> Rows:
        config = self.config
        rows = []
        for i in range(begin, len(run.times)):
            s, t = (run.at(run.times[min(k, len(run.times) - 1)]) for k in (i, i + 1))
            if self._clamp or self._threshold:
                s = bounded_starts(s)
            clean = t._replace(alpha=np.float64(1.0), sigma=np.float64(0.0))
            last = i == run.num_inference_steps - 1
            to, denoised = (
                consistency(VP, Points(*map(np.array, zip(s, end, strict=True))), config.prediction_type,
                            noise_left=0.0, timestep_scaling=config.timestep_scaling)[0]
                for end in (clean if last else t, clean)
            )  # fmt: skip
            rows.append(replace(to, base=denoised.x))
        return rows, (1.0, 0.0)


class TCDScheduler(Distilled, diffusers.TCDScheduler):
    """Trajectory consistency sampling (Zheng et al. 2024, arXiv 2402.19159, algorithm 4); eta is its gamma.

    clip_sample and thresholding of the configuration change nothing, as in diffusers.
    """

    _threshold = None

    def step(
        self,
        model_output: Tensor,
        timestep: int | Tensor,
        sample: Tensor,
        eta: float = 0.3,
        generator: Generators = None,
        return_dict: bool = True,
    ) -> TCDSchedulerOutput | tuple[Tensor, Tensor]:
        """(the sample at the next time, the one before it was noised), each [B, ...]."""
        if not 0 <= eta <= 1:
            raise ValueError(f"eta: expected a number in [0, 1], got {eta!r}")
        new, before = self._advance(model_output, timestep, sample, generator=generator, key=(eta,))
        before = before.to(new.dtype)
        return TCDSchedulerOutput(prev_sample=new, pred_noised_sample=before) if return_dict else (new, before)

    def _rows(self, run: RunState, begin: int, key: tuple[float, ...]) -> Rows:
        rows = []
        for i in range(begin, len(run.times)):
            after = run.times[i + 1] if i + 1 < len(run.times) else 0.0
            s, t, low = run.at(run.times[i]), run.at(after), run.at(math.floor((1 - key[0]) * after))
            row = ddim_row(s, low, self.config.prediction_type, 1)
            down = LinearUpdate(x=row.x.x, history=row.x.history)
            if key[0] > 0 and i != run.num_inference_steps - 1:
                row = renoised(row, low, t, 1, 1.0)
            rows.append(replace(row, base=down))
        return rows, (float(low.alpha), float(low.sigma))
