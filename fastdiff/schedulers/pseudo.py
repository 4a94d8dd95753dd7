"""Pseudo numerical methods (Liu et al. 2022, arXiv 2202.09778): PNDM, PLMS, and iPNDM on its own schedule."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import diffusers
import numpy as np
import torch
from diffusers.schedulers.scheduling_utils import SchedulerOutput
from torch import Tensor

from ..plans.row import BASE_UNCHANGED, LinearUpdate, Row
from ..plans.schedule import Points
from ..plans.solvers.adams import EQUAL_STEPS
from ..plans.solvers.pndm import transfer
from .fused import Fused
from .state import OfRun, RunState
from .times import TimesAlone

Generators = torch.Generator | list[torch.Generator] | None
Rows = tuple[list[Row], tuple[float, float]]


class Pseudo(TimesAlone, Fused):
    """A mixture of noise predictions in place of the noise."""

    _result = "both"

    def step(
        self,
        model_output: Tensor,
        timestep: int | Tensor,
        sample: Tensor,
        return_dict: bool = True,
        generator: Generators = None,
    ) -> SchedulerOutput | tuple[Tensor]:
        """The sample [B, ...] at which the model is evaluated next."""
        if self.num_inference_steps is None:
            raise ValueError("num_inference_steps: expected set_timesteps to be called before step")
        new, _ = self._advance(model_output, timestep, sample)
        return SchedulerOutput(prev_sample=new) if return_dict else (new,)


class PNDMScheduler(Pseudo, diffusers.PNDMScheduler):
    """PNDM, or PLMS with skip_prk_steps, as Stable Diffusion samples with it."""

    prk_timesteps = OfRun()
    _read_by_step = ("alphas_cumprod", "final_alpha_cumprod")
    _by_place = True  # its second time comes twice on purpose

    def _placed(
        self,
        run: RunState,
        count: int,
        timesteps: Sequence[float] | None = None,
        sigmas: Sequence[float] | None = None,
        mu: float | None = None,
    ) -> tuple[np.ndarray, None]:
        """PLMS on the caller's times, whose second is evaluated twice."""
        times, _ = super()._placed(run, count, timesteps=timesteps, sigmas=sigmas, mu=mu)
        if timesteps is None and sigmas is None:
            return times, None
        run.prk_timesteps = np.array([])
        return np.insert(times, 1, times[1:2]), None

    def _rows(self, run: RunState, begin: int, key: tuple[float, ...]) -> Rows:
        stride = self.config.num_train_timesteps // run.num_inference_steps
        times = run.times[begin:].astype(int)
        custom = getattr(run, "custom_timesteps", False)
        multistep = self.config.skip_prk_steps or custom
        stages = 0 if multistep else max(0, len(run.prk_timesteps) - begin)
        following = dict(pairwise(times)) | {times[-1]: -1} if custom else {}
        rows, known = [], 0
        for i, time in enumerate(times):
            stage = (begin + i) % 4
            if i < min(stages, -begin % 4):  # of a step that began before the run: on to the next of the times
                rows.append(_forgetting(self._row(run, time, time, times[i + 1], (1.0,), False, False), (0,)))
            elif i < stages:
                first = times[i - stage]
                to = time - (0 if stage % 2 else stride // 2)
                mixture = (1 / 6, 1 / 3, 1 / 3, 1 / 6) if stage == 3 else (1.0,)
                row = self._row(run, time, first, to, mixture, stage > 0, stage < 3)
                rows.append(row if stage < 3 else _forgetting(row, (0, 1, 2)))
                known += stage == 0
            elif multistep and i == 0:
                to = following.get(time, time - stride)
                rows.append(self._row(run, time, time, to, (1.0,), False, len(times) > 1))
                known = 1
            elif multistep and i == 1:
                first = times[0] if custom else time + stride
                rows.append(_forgetting(self._row(run, time, first, time, (0.5, 0.5), True, False), (0,)))
            else:
                known = min(known + 1, 4)
                to = following.get(time, time - stride)
                rows.append(self._row(run, time, time, to, EQUAL_STEPS[known - 1], False, False))
        return rows, (1.0, 0.0)

    def _row(self, run: RunState, time: int, first: int, to: int, mixture: tuple, from_base: bool, keeps: bool) -> Row:
        """The model evaluated at `time`; x goes from `first` to `to`."""
        prediction = self.config.prediction_type
        line = transfer(run.at(first), run.at(to), mixture, base=from_base)
        return Row.at(run.at(time), "noise", prediction, line, BASE_UNCHANGED if keeps else None)


def _forgetting(row: Row, places: tuple[int, ...]) -> Row:
    return Row(row.t, row.alpha, row.sigma, row.form, row.p_x, row.p_m, row.x, row.base, row.c_in, places)


class IPNDMScheduler(Pseudo, diffusers.IPNDMScheduler):
    """iPNDM of order 4 on diffusers' sine schedule, whose model predicts v."""

    betas, alphas = OfRun(), OfRun()
    _read_of_run = ("timesteps", "alphas", "betas")
    _float_times = True

    def _placed(
        self,
        run: RunState,
        count: int,
        timesteps: Sequence[float] | None = None,
        sigmas: Sequence[float] | None = None,
        mu: float | None = None,
    ) -> tuple[np.ndarray, None]:
        """Angles in units of pi / 2: alpha is their cosine, sigma their sine."""
        if timesteps is None and sigmas is None:
            return run.timesteps.cpu().numpy(), None
        times = np.asarray(timesteps, dtype=np.float64) if sigmas is None else np.arctan(sigmas[:-1]) * 2 / np.pi
        angles = np.append(times, 0.0) * np.pi / 2
        run.alphas, run.betas = torch.from_numpy(np.cos(angles)), torch.from_numpy(np.sin(angles))
        return times, None

    def _rows(self, run: RunState, begin: int, key: tuple[float, ...]) -> Rows:
        alphas, betas = (values.double().cpu().numpy()[begin:] for values in (run.alphas, run.betas))
        points = Points(betas, alphas, betas)
        rows = []
        for i in range(len(run.times) - begin):
            s, t = points.at(i), points.at(i + 1)
            # At alpha = 0 only v tells x0; diffusers takes 0 there.
            blind = LinearUpdate(history=(float(t.sigma),))
            line = transfer(s, t, EQUAL_STEPS[min(i, 3)]) if s.alpha else blind
            rows.append(Row.at(s, "noise", "v_prediction", line))
        return rows, (float(alphas[-1]), float(betas[-1]))
