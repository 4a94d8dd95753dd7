"""Noise schedules: x_t = alpha(t) x_0 + sigma(t) eps, in float64 and in the model's own time.

log_snr is lambda(t) = log(alpha / sigma), half the logarithm of the signal-to-noise power ratio. It falls as t rises;
it is -inf where alpha is 0 (flow models, zero terminal SNR) and +inf where sigma is 0 (clean data).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import numpy as np
from numpy.typing import ArrayLike

from .functions import Function, Functions
from .points import Points, sigmoid
from .prediction import PREDICTIONS
from .scheduler_config import describe

KNOTS = 5


class Schedule(ABC):
    """A noise schedule, x_t = alpha(t) x_0 + sigma(t) eps. Times are in the model's own units.

    Constructors: `from_betas`, `from_alphas_cumprod`, `linear`, `scaled_linear`, `cosine`, `vp`, `trigflow`, `edm`,
    `flow`, `from_functions` for any other, and `from_scheduler` for the one of a diffusers pipeline.
    kind: "vp" (variance preserving), "ve" (variance exploding) or "flow".
    t_min, t_max: the times of least and most noise at which the model can be called. t_clean: the time of sigma = 0.
    num_train_timesteps: number of training indices of a discrete schedule, else None.
    default_prediction: what models of this kind usually predict; after `from_scheduler`, what the scheduler's does.
    All methods take floats or arrays and compute in float64.

    >>> Schedule.scaled_linear()
    <Schedule vp, 1000 training steps: t 0 to 999, sigma/alpha 0.02917 to 14.61>
    >>> float(Schedule.flow(shift=3.0).alpha(0.25))
    0.75
    """

    kind: str
    t_min: float
    t_max: float
    t_clean: float = 0.0
    num_train_timesteps: int | None = None
    default_prediction: str = "epsilon"

    def __repr__(self) -> str:
        low, high = (float(self.coordinate(self.at(t), "sigma")) for t in (self.t_min, self.t_max))
        return f"<Schedule {self._name}: t {self.t_min:g} to {self.t_max:g}, sigma/alpha {low:.4g} to {high:.4g}>"

    @property
    def direction(self) -> float:
        """1 where the time rises with the noise, -1 where it falls, as on clocks that run from noise to data."""
        return 1.0 if self.t_max > self.t_min else -1.0

    @property
    def _name(self) -> str:
        steps = self.num_train_timesteps
        return self.kind if steps is None else f"{self.kind}, {steps} training steps"

    def least_time(self, prediction: str | None) -> float:
        """The least time at which a model of this prediction is called: t_min.

        On flow schedules a velocity is finite at sigma = 0 too and is called there: t_clean.
        """
        return self.t_min

    @abstractmethod
    def alpha(self, t: ArrayLike) -> np.ndarray:
        """The factor of the data at time t."""

    @abstractmethod
    def sigma(self, t: ArrayLike) -> np.ndarray:
        """The factor of the noise at time t."""

    @abstractmethod
    def t_of_log_snr(self, log_snr: ArrayLike) -> np.ndarray:
        """The inverse of log_snr, held within [t_min, t_max]."""

    @abstractmethod
    def at_log_snr(self, log_snr: ArrayLike) -> Points:
        """The points of the given lambda; alpha and sigma are exact functions of it."""

    def log_snr(self, t: ArrayLike) -> np.ndarray:
        """lambda(t) = log(alpha(t) / sigma(t))."""
        return self.at(t).log_snr

    def at(self, t: ArrayLike) -> Points:
        """The points at the given times."""
        t = np.asarray(t, dtype=np.float64)
        return Points(t, self.alpha(t), self.sigma(t))

    def knots(self) -> tuple[tuple[float, float, float], ...]:
        """(t, alpha, sigma) at five times from t_min to t_max. Plans keep them to recognise their schedule."""
        points = self.at(np.linspace(self.t_min, self.t_max, KNOTS))
        return tuple((float(t), float(a), float(s)) for t, a, s in zip(*points, strict=True))

    def shift_time(self, t: np.ndarray) -> np.ndarray:
        """The time that a uniform time grid has instead of t: shifted on flow schedules, else t itself."""
        return t

    def unshift_time(self, t: float) -> float:
        """The inverse of `shift_time`."""
        return t

    def stretch_times(self, t: np.ndarray) -> np.ndarray:
        """The times t of a uniform grid that goes on to clean data: stretched on flow schedules with a terminal."""
        return t

    def coordinate(self, points: Points, which: str | None = None) -> np.ndarray:
        """The coordinate s in which the ODE reads dz/ds = (z - D) / s (Karras et al. 2022, eq. 3).

        which: "sigma" for s = sigma / alpha, z = x / alpha; "flow" for s = sigma / (alpha + sigma),
        z = x / (alpha + sigma), which is at most 1; None for "flow" on flow schedules and "sigma" on others.
        """
        with np.errstate(divide="ignore"):
            return points.sigma / (points.alpha + points.sigma if self._bounded(which) else points.alpha)

    def at_coordinate(self, s: ArrayLike, which: str | None = None) -> Points:
        """The inverse of `coordinate`."""
        s = np.asarray(s, dtype=np.float64)
        with np.errstate(divide="ignore"):
            return self.at_log_snr(np.log1p(-s) - np.log(s) if self._bounded(which) else -np.log(s))

    def _bounded(self, which: str | None) -> bool:
        if which not in (None, "sigma", "flow"):
            raise ValueError(f"coordinate: expected 'sigma' or 'flow', got {which!r}")
        return which == "flow" or (which is None and self.kind == "flow")

    @property
    def init_scale(self) -> float:
        """The factor of unit Gaussian noise at the start: sigma(t_max)."""
        return float(self.sigma(self.t_max))

    # The constructors.

    @staticmethod
    def from_betas(betas: ArrayLike) -> Schedule:
        """Variance preserving, from beta_1..beta_T (Ho et al. 2020); t is the (fractional) index in [0, T - 1]."""
        betas = np.asarray(betas, dtype=np.float64)
        if betas.ndim != 1 or len(betas) < 2 or not np.all((betas > 0) & (betas <= 1)):
            raise ValueError("betas: expected a sequence of at least two numbers in (0, 1]")
        return DiscreteVP(np.cumprod(1.0 - betas))

    @staticmethod
    def from_alphas_cumprod(alphas_cumprod: ArrayLike) -> Schedule:
        """Variance preserving, alpha^2 at each index; between indices log(alpha) is interpolated linearly."""
        return DiscreteVP(np.asarray(alphas_cumprod, dtype=np.float64))

    @staticmethod
    def linear(beta_start: float = 1e-4, beta_end: float = 0.02, num_train_timesteps: int = 1000) -> Schedule:
        """betas linear in the index (Ho et al. 2020)."""
        return Schedule.from_betas(np.linspace(beta_start, beta_end, num_train_timesteps))

    @staticmethod
    def scaled_linear(
        beta_start: float = 0.00085, beta_end: float = 0.012, num_train_timesteps: int = 1000
    ) -> Schedule:
        """sqrt(beta) linear in the index (Rombach et al. 2022; Stable Diffusion's numbers)."""
        return Schedule.from_betas(np.linspace(beta_start**0.5, beta_end**0.5, num_train_timesteps) ** 2)

    @staticmethod
    def cosine(
        num_train_timesteps: int | None = 1000,
        offset: float = 0.008,
        max_beta: float = 0.999,
        *,
        t_min: float = 1e-3,
        t_max: float = 1.0,
    ) -> Schedule:
        """The squared-cosine schedule (Nichol & Dhariwal 2021, eq. 17); num_train_timesteps=None for t in [0, 1].

        t_min, t_max: of the latter, the times that the model knows.
        """
        if not 0 <= offset < math.inf:
            raise ValueError(f"offset: expected a number >= 0, got {offset}")
        if num_train_timesteps is None:
            return CosineVP(offset, t_min, t_max)
        edges = _cosine_angle(np.arange(num_train_timesteps + 1) / num_train_timesteps, offset)
        alphas_cumprod = np.cos(edges) ** 2
        return Schedule.from_betas(np.minimum(1 - alphas_cumprod[1:] / alphas_cumprod[:-1], max_beta))

    @staticmethod
    def vp(beta_min: float = 0.1, beta_max: float = 20.0, t_min: float = 1e-3) -> Schedule:
        """Continuous variance-preserving SDE with beta(t) linear on [0, 1] (Song et al. 2021, eq. 32)."""
        return LinearVP(beta_min, beta_max, t_min)

    @staticmethod
    def trigflow(t_min: float = 1e-3) -> Schedule:
        """TrigFlow, alpha = cos t, sigma = sin t, t in radians up to pi / 2 (Lu & Song 2024, arXiv 2410.11081).

        Its models predict v = dx/dt. x is in units of the data's standard deviation.
        """
        return TrigFlow(t_min)

    @staticmethod
    def edm(sigma_min: float = 0.002, sigma_max: float = 80.0) -> Schedule:
        """Variance exploding with t = sigma, alpha = 1 (Karras et al. 2022, table 1)."""
        return EDM(sigma_min, sigma_max)

    @staticmethod
    def flow(
        shift: float = 1.0, *, tokens: int | None = None, terminal: float | None = None, t_min: float = 1e-3
    ) -> Schedule:
        """Rectified flow, alpha = 1 - t, sigma = t in [0, 1] (Liu et al. 2023; Lipman et al. 2023).

        shift: a uniform time grid is moved to shift t / (1 + (shift - 1) t) (Esser et al. 2024, eq. 23).
        tokens: the sequence length, from which Flux's resolution-dependent shift is computed instead: exp(mu) with mu
        linear from 0.5 at 256 tokens to 1.15 at 4096.
        terminal: a uniform time grid is stretched, after its shift, so that the model is called last at this time, and
        the step from there is to clean data (LTX-Video).
        """
        if tokens is not None:
            shift = math.exp(0.5 + (1.15 - 0.5) * (tokens - 256) / (4096 - 256))
        return Flow(shift, t_min, terminal)

    @staticmethod
    def from_functions(
        alpha: Function,
        sigma: Function,
        t0: float,
        t1: float,
        *,
        prediction: str | None = None,
        t_min: float | None = None,
    ) -> Schedule:
        """alpha(t) and sigma(t) as a library has them, in its own time, which plans then give the model.

        alpha, sigma: called with float64 arrays, tensors or numbers, whichever they take. alpha / sigma has to fall
        strictly from t0, the time of least noise, to t1, that of most; t0 > t1 is a clock that runs from noise to data.
        sigma(t0) may be 0, and alpha(t1). prediction: what the library's models predict, by default the velocity
        eps - x0 where alpha + sigma = 1 (one of x0 - eps needs its sign changed), else eps. t_min: the time of least
        noise that a model is asked about; t0 where sigma(t0) > 0, else by default a thousandth of the way to t1.

        >>> Schedule.from_functions(lambda t: t, lambda t: 1 - t, 1.0, 0.0)
        <Schedule flow: t 0.999 to 0, sigma/alpha 0.001001 to inf>
        """
        return ByFunctions(Functions(alpha, sigma, t0, t1, t_min), prediction)

    @staticmethod
    def from_scheduler(scheduler: object, *, mu: float | None = None, tokens: int | None = None) -> Schedule:
        """The schedule of a diffusers scheduler, `pipe.scheduler`, or of its configuration, computed in float64.

        Betas of all kinds, rescaled to zero terminal SNR or shifted in SNR where the configuration says so; flow with
        its shift; EDM, with sigma as t, for a model D(x, sigma) with its preconditioning, which predicts the sample;
        Stable Audio's cosine; TrigFlow, of x over sigma_data. `default_prediction` is the scheduler's, so plans on the
        schedule need not name it. Alpha is exactly 0 at zero terminal SNR, where diffusers' tables have a small number.
        mu: where the flow's shift depends on the resolution, its logarithm, as the pipeline computes it (the shift
        itself where time_shift_type is "linear"). tokens: or the length of the image's sequence, from which mu follows
        by the configuration's base_shift and max_shift. Neither is read where the shift is fixed.
        Raises TypeError or ValueError for a scheduler that has no such schedule, of tokens for instance.

        >>> Schedule.from_scheduler({"shift": 3.0})
        <Schedule flow, shift 3: t 0.00299401 to 1, sigma/alpha 0.003003 to inf>
        """
        found = describe(scheduler, mu, tokens)
        schedule = getattr(Schedule, found.constructor)(**found.arguments)
        schedule = schedule.zero_terminal_snr() if found.zero_snr else schedule
        schedule.default_prediction = found.prediction
        return schedule

    def zero_terminal_snr(self) -> Schedule:
        """The schedule rescaled so that alpha is 0 at the last index (Lin et al. 2024, algorithm 1)."""
        raise ValueError("zero_terminal_snr: expected a discrete variance-preserving schedule")


def _cosine_angle(t: ArrayLike, offset: float) -> np.ndarray:
    return (np.asarray(t) + offset) / (1 + offset) * (np.pi / 2)


class VP(Schedule):
    """Variance preserving: alpha^2 + sigma^2 = 1, everything from log(alpha)."""

    kind = "vp"

    @abstractmethod
    def log_alpha(self, t: np.ndarray) -> np.ndarray:
        """log(alpha(t))."""

    @abstractmethod
    def _t_of_log_alpha(self, log_alpha: np.ndarray) -> np.ndarray:
        """The inverse of log_alpha."""

    def alpha(self, t: ArrayLike) -> np.ndarray:
        return np.exp(self.log_alpha(np.asarray(t, dtype=np.float64)))

    def sigma(self, t: ArrayLike) -> np.ndarray:
        return np.sqrt(-np.expm1(2 * self.log_alpha(np.asarray(t, dtype=np.float64))))

    def t_of_log_snr(self, log_snr: ArrayLike) -> np.ndarray:
        log_alpha = -0.5 * np.logaddexp(0, -2 * np.asarray(log_snr, dtype=np.float64))
        return np.clip(self._t_of_log_alpha(log_alpha), self.t_min, self.t_max)

    def at_log_snr(self, log_snr: ArrayLike) -> Points:
        log_snr = np.asarray(log_snr, dtype=np.float64)
        alpha = np.exp(-0.5 * np.logaddexp(0, -2 * log_snr))
        return Points(self.t_of_log_snr(log_snr), alpha, np.exp(-0.5 * np.logaddexp(0, 2 * log_snr)))


class DiscreteVP(VP):
    """alphas_cumprod at whole times, log(alpha) linear between them; alpha itself is linear down to a final 0.

    Index t has t + 1 steps of noise in it, so the clean data lie at -1, a time that no model is asked about.
    """

    t_min = 0.0
    t_clean = -1.0

    def __init__(self, alphas_cumprod: np.ndarray) -> None:
        a = np.atleast_1d(alphas_cumprod)
        inside = a.ndim == 1 and len(a) >= 2 and np.all(a[:-1] > 0) and np.all(a < 1) and a[-1] >= 0
        if not (inside and np.all(np.diff(a) < 0)):
            raise ValueError("alphas_cumprod: expected a falling sequence of at least two numbers within (0, 1)")
        self.alphas_cumprod = a
        self.num_train_timesteps = len(a)
        self.t_max = float(len(a) - 1)
        self._ends_at_zero = bool(a[-1] == 0)
        self._table = 0.5 * np.log(np.append(1.0, a[:-1] if self._ends_at_zero else a))
        self._times = np.arange(len(self._table)) - 1.0

    def log_alpha(self, t: np.ndarray) -> np.ndarray:
        inner = np.interp(t, self._times, self._table)
        if not self._ends_at_zero:
            return inner
        with np.errstate(divide="ignore"):
            return inner + np.log(np.clip(self.t_max - t, 0, 1))

    def _t_of_log_alpha(self, log_alpha: np.ndarray) -> np.ndarray:
        inner = np.interp(-log_alpha, -self._table, self._times)
        return inner + (1 - np.exp(np.minimum(log_alpha - self._table[-1], 0))) if self._ends_at_zero else inner

    def zero_terminal_snr(self) -> Schedule:
        root = np.sqrt(self.alphas_cumprod)
        return DiscreteVP(((root - root[-1]) * root[0] / (root[0] - root[-1])) ** 2)


class LinearVP(VP):
    """log(alpha(t)) = -(beta_max - beta_min) t^2 / 4 - beta_min t / 2."""

    t_max = 1.0

    def __init__(self, beta_min: float, beta_max: float, t_min: float) -> None:
        if not 0 < beta_min < beta_max:
            raise ValueError(f"beta_min, beta_max: expected 0 < beta_min < beta_max, got {beta_min}, {beta_max}")
        if not 0 < t_min < 1:
            raise ValueError(f"t_min: expected a number in (0, 1), got {t_min}")
        self.beta_min, self.beta_max, self.t_min = beta_min, beta_max, t_min

    def log_alpha(self, t: np.ndarray) -> np.ndarray:
        return -0.25 * t**2 * (self.beta_max - self.beta_min) - 0.5 * t * self.beta_min

    def _t_of_log_alpha(self, log_alpha: np.ndarray) -> np.ndarray:
        slope = self.beta_max - self.beta_min
        return -4 * log_alpha / (self.beta_min + np.sqrt(self.beta_min**2 - 4 * slope * log_alpha))


class CosineVP(VP):
    """alpha(t) = cos(angle(t)) / cos(angle(0)) on [0, 1], 0 at t = 1."""

    def __init__(self, offset: float, t_min: float, t_max: float) -> None:
        if not 0 < t_min < t_max <= 1:
            raise ValueError(f"t_min, t_max: expected 0 < t_min < t_max <= 1, got {t_min}, {t_max}")
        self.offset, self.t_min, self.t_max = offset, float(t_min), float(t_max)

    def log_alpha(self, t: np.ndarray) -> np.ndarray:
        # sin of the angle's complement, which is exactly 0 at t = 1 where cos would leave 6e-17.
        with np.errstate(divide="ignore"):
            ratio = np.sin((1 - t) / (1 + self.offset) * (np.pi / 2)) / np.cos(_cosine_angle(0.0, self.offset))
            return np.minimum(np.log(ratio), 0.0)

    def _t_of_log_alpha(self, log_alpha: np.ndarray) -> np.ndarray:
        complement = np.arcsin(np.exp(log_alpha) * np.cos(_cosine_angle(0.0, self.offset)))
        return 1 - complement * (1 + self.offset) * (2 / np.pi)


class TrigFlow(VP):
    """alpha = cos t, sigma = sin t."""

    t_max = np.pi / 2
    default_prediction = "v_prediction"

    def __init__(self, t_min: float) -> None:
        if not 0 < t_min < self.t_max:
            raise ValueError(f"t_min: expected a number in (0, pi / 2), got {t_min}")
        self.t_min = t_min

    def log_alpha(self, t: np.ndarray) -> np.ndarray:
        # sin of the complement, which is exactly 0 at t = pi / 2 where cos would leave 6e-17.
        with np.errstate(divide="ignore"):
            return np.log(np.sin(self.t_max - t))

    def _t_of_log_alpha(self, log_alpha: np.ndarray) -> np.ndarray:
        return np.arccos(np.exp(log_alpha))

    def sigma(self, t: ArrayLike) -> np.ndarray:
        return np.sin(np.asarray(t, dtype=np.float64))

    def t_of_log_snr(self, log_snr: ArrayLike) -> np.ndarray:
        return np.clip(np.arctan(np.exp(-np.asarray(log_snr, dtype=np.float64))), self.t_min, self.t_max)


class EDM(Schedule):
    """alpha = 1, sigma = t."""

    kind = "ve"

    def __init__(self, sigma_min: float, sigma_max: float) -> None:
        if not 0 < sigma_min < sigma_max < math.inf:
            raise ValueError(f"sigma_min, sigma_max: expected 0 < sigma_min < sigma_max, got {sigma_min}, {sigma_max}")
        self.t_min, self.t_max = float(sigma_min), float(sigma_max)

    def alpha(self, t: ArrayLike) -> np.ndarray:
        return np.ones_like(np.asarray(t, dtype=np.float64))

    def sigma(self, t: ArrayLike) -> np.ndarray:
        return np.asarray(t, dtype=np.float64)

    def t_of_log_snr(self, log_snr: ArrayLike) -> np.ndarray:
        return np.clip(np.exp(-np.asarray(log_snr, dtype=np.float64)), self.t_min, self.t_max)

    def at_log_snr(self, log_snr: ArrayLike) -> Points:
        sigma = np.exp(-np.asarray(log_snr, dtype=np.float64))
        return Points(sigma, np.ones_like(sigma), sigma)


class Flow(Schedule):
    """alpha = 1 - t, sigma = t; only the time grid is shifted."""

    kind = "flow"
    t_max = 1.0
    default_prediction = "flow_prediction"

    def __init__(self, shift: float, t_min: float, terminal: float | None) -> None:
        if not (shift > 0 and 0 < t_min < 1):
            raise ValueError(f"shift, t_min: expected shift > 0 and 0 < t_min < 1, got {shift}, {t_min}")
        if terminal is not None and not 0 < terminal < 1:
            raise ValueError(f"terminal: expected a time in (0, 1), got {terminal}")
        self.shift, self.terminal = float(shift), terminal
        self.t_min = float(self.shift_time(np.float64(t_min)))

    @property
    def _name(self) -> str:
        return f"flow, shift {self.shift:g}"

    def least_time(self, prediction: str | None) -> float:
        return self.t_clean if prediction == "flow_prediction" else self.t_min

    def shift_time(self, t: np.ndarray) -> np.ndarray:
        return self.shift * t / (1 + (self.shift - 1) * t)

    def unshift_time(self, t: float) -> float:
        return t / (self.shift - (self.shift - 1) * t)

    def stretch_times(self, t: np.ndarray) -> np.ndarray:
        if self.terminal is None or t[-1] == 1:
            return t
        return 1 - (1 - t) * ((1 - self.terminal) / (1 - t[-1]))

    def alpha(self, t: ArrayLike) -> np.ndarray:
        return 1 - np.asarray(t, dtype=np.float64)

    def sigma(self, t: ArrayLike) -> np.ndarray:
        return np.asarray(t, dtype=np.float64)

    def t_of_log_snr(self, log_snr: ArrayLike) -> np.ndarray:
        return np.clip(sigmoid(-np.asarray(log_snr, dtype=np.float64)), self.t_min, self.t_max)

    def at_log_snr(self, log_snr: ArrayLike) -> Points:
        log_snr = np.asarray(log_snr, dtype=np.float64)
        return Points(sigmoid(-log_snr), sigmoid(log_snr), sigmoid(-log_snr))


class ByFunctions(Schedule):
    """alpha and sigma of the caller."""

    def __init__(self, functions: Functions, prediction: str | None) -> None:
        if prediction not in (None, *PREDICTIONS):
            raise ValueError(f"prediction: expected one of {', '.join(PREDICTIONS)}, got {prediction!r}")
        self._functions, self.kind = functions, functions.kind
        self.t_clean, self.t_min, self.t_max = functions.t0, functions.t_min, functions.t1
        self.default_prediction = prediction or ("flow_prediction" if self.kind == "flow" else "epsilon")

    def least_time(self, prediction: str | None) -> float:
        return self.t_clean if self.kind == "flow" and prediction == "flow_prediction" else self.t_min

    def alpha(self, t: ArrayLike) -> np.ndarray:
        return self.at(t).alpha

    def sigma(self, t: ArrayLike) -> np.ndarray:
        return self.at(t).sigma

    def at(self, t: ArrayLike) -> Points:
        return self._functions.at(np.asarray(t, dtype=np.float64))

    def t_of_log_snr(self, log_snr: ArrayLike) -> np.ndarray:
        return self._functions.time_of(np.asarray(log_snr, dtype=np.float64))

    def at_log_snr(self, log_snr: ArrayLike) -> Points:
        return self._functions.at_log_snr(np.asarray(log_snr, dtype=np.float64))
