"""alpha and sigma as functions of a library's own time: their values in float64, their kind and their inverse."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from .points import Points, sigmoid

Function = Callable[[Any], Any]

TABLE = 1025  # times at which functions are looked at, and between which the inverse is bisected
HALVINGS = 48  # to the rounding of a float64 from one interval of the table
NOTHING = 1e-12  # alpha or sigma below this share of the other is 0: cos(pi / 2) is 6e-17
SAME = 1e-5  # functions may have gone through float32
LEAST = 1e-3  # of the way from clean data to noise: where a model is asked last, unless told


class Functions:
    """alpha(t) and sigma(t) between t0, the time of least noise, and t1, that of most; either may be the larger.

    The functions take an array of float64, a tensor of float64 or a number. t_min: the time of least noise > 0 that a
    model is asked about. kind: "vp" where alpha^2 + sigma^2 = 1, "flow" where alpha + sigma = 1, "ve" where alpha = 1,
    else "vp". normal: whether one of these holds, so that alpha and sigma follow from their ratio.
    Raises ValueError or TypeError naming the argument.
    """

    def __init__(self, alpha: Function, sigma: Function, t0: float, t1: float, t_min: float | None) -> None:
        for name, t in (("t0", t0), ("t1", t1)):
            if not np.isfinite(t) or t0 == t1:
                raise ValueError(f"{name}: expected two different finite times t0 and t1, got {t0} and {t1}")
        self.t0, self.t1 = float(t0), float(t1)
        ends = np.array([self.t0, self.t1])
        self._alpha, self._sigma = (_of_arrays(name, f, ends) for name, f in (("alpha", alpha), ("sigma", sigma)))
        self.kind, self.normal = self._kind()
        self.t_min = self._least(t_min)
        self._times = np.linspace(self.t_min, self.t1, TABLE)
        log_snr = self._checked(self._times).log_snr
        if not np.all(np.diff(log_snr) < 0):
            i = int(np.flatnonzero(~(np.diff(log_snr) < 0))[0])
            raise ValueError(
                f"alpha, sigma: expected alpha / sigma to fall strictly from t0 = {self.t0:g} to t1 = {self.t1:g};"
                f" it does not between t = {self._times[i]:.6g} and {self._times[i + 1]:.6g}"
            )
        self._rising = -log_snr

    def at(self, t: np.ndarray) -> Points:
        """The points at times of any shape."""
        alpha, sigma = self._alpha(t), self._sigma(t)
        none, clean = alpha <= NOTHING * sigma, sigma <= NOTHING * alpha
        return Points(t, np.where(none, 0.0, alpha), np.where(clean, 0.0, sigma))

    def at_log_snr(self, log_snr: np.ndarray) -> Points:
        """The points of these lambda, exact functions of it where the kind's equation holds."""
        t = self.time_of(log_snr)
        if not self.normal:
            return self.at(t)
        if self.kind == "vp":
            return Points(t, np.sqrt(sigmoid(2 * log_snr)), np.sqrt(sigmoid(-2 * log_snr)))
        if self.kind == "flow":
            return Points(t, sigmoid(log_snr), sigmoid(-log_snr))
        return Points(t, np.ones_like(log_snr), np.exp(-log_snr))

    def time_of(self, log_snr: np.ndarray) -> np.ndarray:
        """The inverse of lambda(t), held between t_min and t1: in the table, then by bisection."""
        wanted = -np.asarray(log_snr, dtype=np.float64)
        place = np.clip(np.searchsorted(self._rising, wanted), 1, TABLE - 1)
        low, high = self._times[place - 1], self._times[place]
        for _ in range(HALVINGS):
            middle = 0.5 * (low + high)
            below = -self.at(middle).log_snr < wanted
            low, high = np.where(below, middle, low), np.where(below, high, middle)
        inside = np.where(wanted <= self._rising[0], self._times[0], 0.5 * (low + high))
        return np.where(wanted >= self._rising[-1], self._times[-1], inside)

    def _checked(self, t: np.ndarray) -> Points:
        """The points, whose numbers are some. Raises ValueError."""
        for name, f in (("alpha", self._alpha), ("sigma", self._sigma)):
            values = f(t)
            wrong = ~np.isfinite(values) | (values < -SAME)
            if wrong.any():
                raise ValueError(f"{name}: expected finite numbers >= 0, got {values[wrong][0]} at t = {t[wrong][0]:g}")
        points = self.at(t)
        if np.any((points.alpha == 0) & (points.sigma == 0)):
            raise ValueError("alpha, sigma: both are 0 at one time")
        return points

    def _kind(self) -> tuple[str, bool]:
        points = self._checked(np.linspace(self.t0, self.t1, TABLE))
        if np.allclose(points.alpha, 1, atol=SAME, rtol=0):
            return "ve", True
        if np.allclose(points.alpha + points.sigma, 1, atol=SAME, rtol=0):
            return "flow", True
        return "vp", np.allclose(points.alpha**2 + points.sigma**2, 1, atol=SAME, rtol=0)

    def _least(self, t_min: float | None) -> float:
        """t_min, by default t0 where there is noise, else a thousandth of the way to t1."""
        clean = self.at(np.array([self.t0])).sigma[0] == 0
        if t_min is None and clean and self.kind == "ve":
            raise ValueError("t_min: expected the time of the least noise that the model knows, as sigma(t0) is 0")
        if t_min is None:
            t_min = self.t0 + LEAST * (self.t1 - self.t0) if clean else self.t0
        if not 0 <= (t_min - self.t0) / (self.t1 - self.t0) < 1 or self.at(np.array([t_min])).sigma[0] == 0:
            raise ValueError(f"t_min: expected a time with noise from {self.t0:g} to {self.t1:g}, got {t_min}")
        return float(t_min)


def _of_arrays(name: str, function: Function, ends: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """The function on float64 arrays, called with one of one dimension in the first way that it can be.

    Raises TypeError.
    """

    def by_array(t: np.ndarray) -> np.ndarray:
        with np.errstate(all="ignore"):
            return np.asarray(function(t), dtype=np.float64)

    def by_tensor(t: np.ndarray) -> np.ndarray:
        # A function of tensors exists only where torch has been imported, which plans do without.
        value = function(sys.modules["torch"].from_numpy(np.array(t, dtype=np.float64)))
        return value.detach().cpu().double().numpy() if hasattr(value, "detach") else np.asarray(value, np.float64)

    def by_number(t: np.ndarray) -> np.ndarray:
        return np.array([float(function(float(value))) for value in t])

    found: Exception | None = None
    for way in (by_array, by_tensor, by_number):

        def called(t: np.ndarray, way: Callable = way) -> np.ndarray:
            t = np.asarray(t, dtype=np.float64)
            values = way(t.reshape(-1))
            # Libraries add dimensions for x to t, and constants have none.
            return values.reshape(t.shape) if values.size == t.size else np.broadcast_to(values, t.shape)

        try:
            called(ends)
        except Exception as error:
            found = found or error
        else:
            return called
    raise TypeError(
        f"{name}: expected a function of a time t, an array, a tensor or a number; {function!r} raised: {found}"
    )
