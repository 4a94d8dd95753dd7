"""NoiseScheduleVP: the noise schedule in DPM-Solver's continuous time, t in (0, T]."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from ..plans.grid import LOG_SNR_CUT
from ..plans.schedule import VP, Schedule

MIN_TIME = 1e-12  # of the continuous schedules: any t_end > 0 is allowed


class NoiseScheduleVP:
    """Variance preserving: x_t = alpha(t) x_0 + sigma(t) eps, t in (0, T].

    schedule: "discrete", from betas or alphas_cumprod [N]: index i is at t = (i + 1) / N, and log(alpha) is linear in
    between and beyond; indices with lambda below -5.1 are cut off, and N counts those that remain. "linear": beta(t)
    goes from continuous_beta_0 to continuous_beta_1. "cosine": T = 0.9946.
    Everything is computed in float64; the methods return the dtype and device of their argument. `dtype` is ignored.
    T: the last time. total_N: N (1000 for continuous schedules); sampling ends at 1 / total_N.
    Raises ValueError naming the argument.
    """

    def __init__(
        self,
        schedule: str = "discrete",
        betas: Tensor | None = None,
        alphas_cumprod: Tensor | None = None,
        continuous_beta_0: float = 0.1,
        continuous_beta_1: float = 20.0,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.schedule, self.T, self.total_N = schedule, 1.0, 1000
        if schedule == "discrete":
            self.vp: Schedule = _Discrete(_log_alphas(betas, alphas_cumprod))
            self.total_N = self.vp.total
        elif schedule == "linear":
            self.vp = Schedule.vp(continuous_beta_0, continuous_beta_1)
            self.vp.t_min = MIN_TIME
        elif schedule == "cosine":
            # The authors' last time: at t = 1 alpha is 0, and lambda has no inverse.
            self.vp, self.T = Schedule.cosine(None), 0.9946
            self.vp.t_min = MIN_TIME
        else:
            raise ValueError(f"schedule: expected 'discrete', 'linear' or 'cosine', got {schedule!r}")

    def marginal_log_mean_coeff(self, t: Tensor) -> Tensor:
        """log(alpha(t))."""
        return _on_tensor(self.vp.log_alpha, t)

    def marginal_alpha(self, t: Tensor) -> Tensor:
        """alpha(t)."""
        return _on_tensor(self.vp.alpha, t)

    def marginal_std(self, t: Tensor) -> Tensor:
        """sigma(t)."""
        return _on_tensor(self.vp.sigma, t)

    def marginal_lambda(self, t: Tensor) -> Tensor:
        """lambda(t) = log(alpha(t) / sigma(t))."""
        return _on_tensor(self.vp.log_snr, t)

    def inverse_lambda(self, lamb: Tensor) -> Tensor:
        """The t at which lambda(t) = lamb."""
        return _on_tensor(self.vp.t_of_log_snr, lamb)

    def model_time(self, t: float) -> float:
        """The model's time input: t, or for a discrete schedule the (fractional) index 1000 (t - 1 / N)."""
        return (t - 1 / self.total_N) * 1000 if self.schedule == "discrete" else t


class _Discrete(VP):
    """log(alpha) at t = 1 / N, 2 / N, ..., 1; linear between, and beyond as in the outermost intervals."""

    t_max = 1.0
    t_min = 0.0

    def __init__(self, log_alpha: np.ndarray) -> None:
        self.total = len(log_alpha)
        self._table, self._times = log_alpha, np.arange(1, self.total + 1) / self.total

    def log_alpha(self, t: np.ndarray) -> np.ndarray:
        return _line(t, self._times, self._table)

    def _t_of_log_alpha(self, log_alpha: np.ndarray) -> np.ndarray:
        return _line(-log_alpha, -self._table, self._times)


def _line(x: np.ndarray, places: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Piecewise linear through (places, values), places rising."""
    i = np.clip(np.searchsorted(places, x) - 1, 0, len(places) - 2)
    return values[i] + (x - places[i]) * (values[i + 1] - values[i]) / (places[i + 1] - places[i])


def _log_alphas(betas: Tensor | None, alphas_cumprod: Tensor | None) -> np.ndarray:
    """log(alpha) [N], without the noisy end where lambda is below the cut."""
    if (betas is None) == (alphas_cumprod is None):
        raise ValueError("betas, alphas_cumprod: expected one of them for a discrete schedule")
    given = betas if betas is not None else alphas_cumprod
    numbers = torch.as_tensor(given).detach().double().cpu().numpy()
    if numbers.ndim != 1 or len(numbers) < 2:
        raise ValueError(f"betas, alphas_cumprod: expected at least two numbers, got shape {numbers.shape}")
    with np.errstate(divide="ignore", invalid="ignore"):
        log_alpha = 0.5 * (np.log1p(-numbers).cumsum() if betas is not None else np.log(numbers))
        # sigma^2 = 1 - alpha^2 by expm1: where there is little noise the difference would lose its digits.
        log_snr = log_alpha - 0.5 * np.log(-np.expm1(2 * log_alpha))
    kept = log_alpha[log_snr >= LOG_SNR_CUT]
    if len(kept) < 2 or not np.all(np.diff(kept) < 0):
        raise ValueError("betas, alphas_cumprod: expected a falling alphas_cumprod within (0, 1)")
    return kept


def _on_tensor(function: Callable[[np.ndarray], np.ndarray], t: Tensor) -> Tensor:
    return torch.as_tensor(np.asarray(function(t.detach().double().cpu().numpy()))).to(t)
