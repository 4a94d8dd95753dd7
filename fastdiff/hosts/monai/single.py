"""MONAI's schedulers whose step depends on its time alone: DDIM, DDPM and the rectified flow's Euler.

A step ends where the run's next one begins. MONAI's end elsewhere unless all training steps are taken, DDIM's at
t - num_train_timesteps // n and DDPM's at t - 1, and the network is then told another time than its input's: with
compat=True these do too. A time that is not among `timesteps` is stepped from as MONAI does.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ...plans.prediction import convert
from ...plans.row import LinearUpdate, Row
from ...plans.schedule import Points
from ...plans.solvers.ancestral import ddim_clipped_row, ddim_row, step_down
from . import theirs
from .take import take


class _Single(theirs.Scheduler):
    """What DDIM and DDPM share. compat: whether steps end where MONAI's do."""

    compat: bool
    _read: tuple[Any, dict[int, int]] = (None, {})  # the timesteps, and for each the next

    def _end(self, t: int, own: int) -> int:
        """Where the step from t ends; -1 is clean data. own: where MONAI's does."""
        if self.compat:
            return own
        if self._read[0] is not self.timesteps:
            times = [int(value) for value in self.timesteps.tolist()]
            self._read = self.timesteps, dict(zip(times, [*times[1:], -1], strict=True))
        return self._read[1].get(t, own)

    def _point(self, t: int, clean: float = 1.0) -> Points:
        """Where x is at a time; before the first, alpha^2 is `clean`."""
        alpha2 = float(self.alphas_cumprod[t]) if t >= 0 else clean
        return Points(float(t), math.sqrt(alpha2), math.sqrt(1 - alpha2))  # type: ignore[arg-type]

    def _clamp(self) -> float | None:
        return float(self.clip_sample_values[1]) if self.clip_sample else None

    @property
    def _lopsided(self) -> bool:
        """Whether x0 is bounded by other numbers than -c and c, which no row says."""
        return bool(self.clip_sample) and self.clip_sample_values[0] != -self.clip_sample_values[1]


class DDIMScheduler(_Single, theirs.DDIMScheduler):
    """DDIM (Song et al. 2021, arXiv 2010.02502, eq. 12) with MONAI's arguments and times.

    compat: steps end at t - num_train_timesteps // n, as MONAI's do, rather than where the next begins.
    kwargs: MONAI's own. Its errors are MONAI's.
    """

    def __init__(self, *args: Any, compat: bool = False, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.compat = compat

    def step(
        self,
        model_output: Tensor,
        timestep: int,
        sample: Tensor,
        eta: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, Tensor]:
        """(the next sample, x0), [B, ...] each. eta: share of fresh noise, drawn from the generator."""
        if self._lopsided:
            return super().step(model_output, timestep, sample, eta, generator)
        t = int(timestep)
        clean = float(self.final_alpha_cumprod)
        start = self._point(t)
        end = self._point(self._end(t, t - self.num_train_timesteps // self.num_inference_steps), clean)
        noises = [output_noise(model_output, generator)] if eta > 0 else []
        if not self.clip_sample:
            row = ddim_row(start, end, str(self.prediction_type), 1, eta)
            return take(row, model_output, sample, noises[: len(row.x.noise)])
        row = ddim_clipped_row(start, end, str(self.prediction_type), *step_down(start, end, eta))
        return take(row, model_output, sample, [model_output, *noises][: len(row.x.noise)], self._clamp())


class DDPMScheduler(_Single, theirs.DDPMScheduler):
    """Ancestral sampling (Ho et al. 2020, arXiv 2006.11239, eq. 7) with MONAI's arguments and times.

    compat: steps end at t - 1, as MONAI's do, rather than where the next begins: the same with all training steps.
    kwargs: MONAI's own. A learned variance is MONAI's own step. `get_likelihood` takes this scheduler as it takes
    MONAI's.
    """

    def __init__(self, *args: Any, compat: bool = False, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.compat = compat

    def step(
        self, model_output: Tensor, timestep: int, sample: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """(the next sample, x0), [B, ...] each. generator: of the fresh noise, of which the step from 0 has none."""
        if self._lopsided or model_output.shape[1] != sample.shape[1]:
            return super().step(model_output, timestep, sample, generator)
        t = int(timestep)
        end = self._end(t, t - 1)
        row = self._row(self._point(t), self._point(end), float(self.betas[t]) if end == t - 1 else None, t > 0)
        noises = [output_noise(model_output, generator)] if t > 0 else []
        return take(row, model_output, sample, noises, self._clamp())

    def _row(self, s: Points, t: Points, beta: float | None, draws: bool) -> Row:
        """The posterior of x_t given x_s and x0, with its own variance, or of fixed_large the forward process's."""
        if beta is None:  # of several training steps
            beta = 1 - float(s.alpha / t.alpha) ** 2
        ratio, variance = math.sqrt(1 - beta), float(s.sigma) ** 2
        left = float(t.sigma) ** 2 / variance
        spread = math.sqrt(beta if self.variance_type == "fixed_large" else max(beta * left, 1e-20))
        history = (float(t.alpha) * beta / variance,)
        noise = ((1, spread),) if draws else ()
        p = convert(str(self.prediction_type), "data", float(s.alpha), float(s.sigma))
        return Row(
            float(s.t), float(s.alpha), float(s.sigma), "data", *p, LinearUpdate(0.0, ratio * left, history, noise)
        )


class RFlowScheduler(theirs.RFlowScheduler):
    """Euler's method along a rectified flow (Liu et al. 2023, arXiv 2209.03003), with MONAI's arguments.

    The network predicts x0 - eps. A step ends at next_timestep itself, which MONAI rounds down to a whole number.
    """

    def step(
        self, model_output: Tensor, timestep: float, sample: Tensor, next_timestep: float | None = None
    ) -> tuple[Tensor, Tensor]:
        """(the next sample, x0), [B, ...] each. next_timestep: where the step ends; a whole step on if None."""
        if next_timestep is None or not hasattr(self, "num_inference_steps"):
            return super().step(model_output, timestep, sample, next_timestep)
        total = self.num_train_timesteps
        t, end = float(timestep) / total, float(next_timestep) / total
        row = Row(t, 1 - t, t, "data", 1.0, t, LinearUpdate(x=end / t, history=(1 - end / t,)))
        return take(row, model_output, sample)


def output_noise(m: Tensor, generator: torch.Generator | None) -> Tensor:
    """Unit noise of the output's shape, as MONAI draws it."""
    return torch.randn(m.shape, dtype=m.dtype, device=m.device, layout=m.layout, generator=generator)
