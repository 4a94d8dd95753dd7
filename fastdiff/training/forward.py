"""The forward process: x_t = alpha(t) x0 + sigma(t) eps, and what a model of each prediction should say to it.

Numbers of a schedule are computed in float64 and used in float32, in float64 for data of that type. Times on the CPU
cost no wait for a device.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..ops import checks
from ..plans.points import Points
from ..plans.prediction import PREDICTIONS, mixture
from ..plans.schedule import Schedule
from ..plans.schedule_argument import require_schedule

FARTHEST = 20.0  # of log_snr: beyond it only one of data and noise is left


def noised(schedule: Schedule, x0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
    """x_t = alpha(t) x0 + sigma(t) noise, [B, ...] in the dtype of x0 (Ho et al. 2020, eq. 4).

    x0, noise: [B, ...] of one shape. t: [B] times in the schedule's units, on any device.
    Raises TypeError or ValueError naming the argument.
    """
    check(schedule, x0, t)
    checks.require_shape("noise", noise, tuple(x0.shape))
    alpha, sigma = columns(schedule, t, x0)
    return (alpha * x0 + sigma * noise).to(x0.dtype)


def target(schedule: Schedule, prediction: str, x0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
    """What a model of this prediction should say to x_t, [B, ...] in float32 or, for such data, float64.

        epsilon          eps                      (Ho et al. 2020)
        sample           x0
        v_prediction     alpha eps - sigma x0     (Salimans & Ho 2022, appendix D)
        flow_prediction  eps - x0                 (Liu et al. 2023)
        score            -eps / sigma             (Song et al. 2021)

    Arguments and errors as for `noised`; ValueError for another prediction.
    """
    check(schedule, x0, t)
    checks.require_shape("noise", noise, tuple(x0.shape))
    require_prediction(prediction)
    alpha, sigma = columns(schedule, t, x0)
    x0, noise = x0.to(alpha.dtype), noise.to(alpha.dtype)
    if prediction == "epsilon":
        return noise
    if prediction == "sample":
        return x0
    if prediction == "v_prediction":
        return alpha * noise - sigma * x0
    return noise - x0 if prediction == "flow_prediction" else -noise / sigma


def check(schedule: Schedule, x0: Tensor, t: Tensor) -> None:
    """Raises TypeError or ValueError naming the argument."""
    require_schedule(schedule)
    checks.require_float("x0", x0)
    if x0.ndim < 1:
        raise ValueError("x0: expected [B, ...], got a number")
    checks.require_shape("t", t, (len(x0),))


def require_prediction(prediction: str) -> None:
    """Raises ValueError listing the predictions."""
    if prediction not in PREDICTIONS:
        raise ValueError(f"prediction: expected one of {', '.join(PREDICTIONS)}, got {prediction!r}")


def columns(schedule: Schedule, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """alpha and sigma at t as [B, 1, ...], for data of this shape, device and dtype."""
    point = schedule.at(t.detach().cpu().double().numpy())
    dtype = torch.promote_types(like.dtype, torch.float32)
    shape = (-1, *[1] * (like.ndim - 1))
    alpha, sigma = (
        torch.from_numpy(value).to(like.device, dtype).reshape(shape) for value in (point.alpha, point.sigma)
    )
    return alpha, sigma


def inside(schedule: Schedule, t: Tensor) -> Points:
    """The points of times t [B], away from the ends where weights would be infinite."""
    log_snr = schedule.log_snr(t.detach().cpu().double().numpy())
    return schedule.at_log_snr(log_snr.clip(-FARTHEST, FARTHEST))


def ratio(schedule: Schedule, t: Tensor) -> Tensor:
    """sigma / alpha at times t, [B] float32 on the device of t."""
    point = inside(schedule, t)
    return torch.from_numpy(point.sigma / point.alpha).float().to(t.device)


def data_per_prediction(schedule: Schedule, prediction: str, t: Tensor) -> Tensor:
    """p^2 [B] float32: |x0 - x0'|^2 = p^2 |m - m'|^2 for data x0, x0' that predictions m, m' of one x_t mean.

    From m = a eps + b x0 and x_t = alpha x0 + sigma eps: p = sigma / (b sigma - a alpha).
    """
    point = inside(schedule, t)
    factors = []
    for alpha, sigma in zip(point.alpha.tolist(), point.sigma.tolist(), strict=True):
        a, b = mixture(prediction, alpha, sigma)
        factors.append((sigma / (b * sigma - a * alpha)) ** 2)
    return torch.tensor(factors, dtype=torch.float32, device=t.device)
