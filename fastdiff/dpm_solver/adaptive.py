"""DPM-Solver-12 and -23 with the authors' step control (Lu et al. 2022, arXiv 2206.00927, appendix C)."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from ..plans.solvers.embedded import embedded_step
from .sampler import Sampler

SAFETY = 0.9
TIME_ERROR = 1e-5
H_INIT = 0.05


def follow(
    solver: Sampler, x: Tensor, start: float, end: float, order: int, correction: str, atol: float, rtol: float
) -> Tensor:
    """x [B, ...] at time `end`, by steps whose root mean square error is at most 1 in every sample.

    The error of an element is (high - low) / max(atol, rtol max(|low|, |low of the step before|)); the next step's
    length in lambda is 0.9 h error^(-1 / order). The host waits for the device once per step, to read the error.
    Raises RuntimeError if the model returns numbers that are not finite.
    """
    vp = solver.noise_schedule.vp
    last = float(vp.log_snr(end))
    log_snr, t = float(vp.log_snr(start)), start
    h, before = math.copysign(H_INIT, last - log_snr), x
    while abs(t - end) > TIME_ERROR:
        h = math.copysign(min(abs(h), abs(last - log_snr)), h)
        # The end itself in the last step: through lambda and back it would be missed by rounding, and never reached.
        reaches = log_snr + h == last or abs(h) == abs(last - log_snr)
        t_next = end if reaches else float(vp.t_of_log_snr(np.float64(log_snr + h)))
        rows = embedded_step(
            vp, vp.at(t), vp.at(t_next), solver.prediction, f"dpm_{order - 1}{order}", solver.form, correction
        )  # fmt: skip
        high, low = solver.attempt(x, rows, t_next)
        error = _error(high, low, before, atol, rtol)
        if error <= 1:
            x, before, t, log_snr = high, low, t_next, float(vp.log_snr(t_next))
        # A rejected step is tried again, shorter. After an error of 0 the next one would be infinite.
        h *= SAFETY * max(error, 1e-10) ** (-1 / order)
    return x


def _error(high: Tensor, low: Tensor, before: Tensor, atol: float, rtol: float) -> float:
    scale = (rtol * torch.maximum(low.abs(), before.abs())).clamp_min(atol)
    # The largest of the samples' errors, since all take the same steps.
    error = float(((high - low) / scale).flatten(1).square().mean(1).sqrt().max())
    if not math.isfinite(error):
        raise RuntimeError("model: gave numbers that are not finite")
    return error
