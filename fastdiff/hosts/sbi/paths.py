"""sbi's vector fields as models of `fastdiff.sample`: the schedule, and what is asked of the network."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...plans.schedule import Schedule

LATEST = 0.99  # sbi clamps the time of flows to this where it divides by 1 - t


class Path(NamedTuple):
    """theta_t = alpha theta_0 + sigma eps of an estimator, and its field.

    schedule: in a time of its own. prediction: what `model` returns. t_of: the schedule's time of sbi's.
    model: model(theta [S, ...], t [S]).
    """

    schedule: Schedule
    prediction: str
    t_of: Callable[[float], float]
    model: Callable[[Tensor, Tensor], Tensor]


def path_of(potential: Any, adapted: bool) -> Path:
    """The path of potential.vector_field_estimator. adapted: whether only potential.gradient knows the whole score.

    Raises TypeError for an estimator that is none of sbi's VP, VE and flow.
    """
    estimator = potential.vector_field_estimator
    if hasattr(estimator, "noise_scale"):
        return _flow(potential, estimator, adapted)
    path = None
    if hasattr(estimator, "sigma_max"):
        path = _variance_exploding(potential, estimator)
    elif hasattr(estimator, "beta_max"):
        path = _variance_preserving(potential, estimator)
    if path is None or not _tells(path, estimator):
        raise TypeError(f"potential_fn: expected a VP, VE or flow estimator, got {type(estimator).__name__}")
    return path


def _tells(path: Path, estimator: Any) -> bool:
    """Whether the path's alpha and sigma are the estimator's: sub-VP has VP's numbers and another sigma."""
    t = 0.5 * (estimator.t_min + estimator.t_max)
    theirs = (float(f(torch.full((1,), t))) for f in (estimator.mean_t_fn, estimator.std_fn))
    ours = path.schedule.at(path.t_of(t))[1:]
    return all(math.isclose(a, float(b), rel_tol=1e-4) for a, b in zip(theirs, ours, strict=True))


def _flow(potential: Any, estimator: Any, adapted: bool) -> Path:
    """dtheta/dt = v with v = E[eps - theta_0], as sbi's own ODE has it.

    Of an adapted score s, which says nothing of theta_0 at t = 1, v = -((t + noise_scale) s + theta) / (1 - t).
    """

    def velocity(theta: Tensor, t: Tensor) -> Tensor:
        time = t[0].to(theta.dtype)
        if not adapted:
            return estimator.ode_fn(theta, potential.x_o, time)
        time = time.clamp(estimator.t_min or 1e-3, LATEST)
        score = potential.gradient(theta, time)
        return -((time + estimator.noise_scale) * score + theta) / (1 - time)

    return Path(Schedule.flow(), "flow_prediction", float, velocity)


def _variance_exploding(potential: Any, estimator: Any) -> Path:
    """sigma(t) = sigma_min (sigma_max / sigma_min)^t, on a schedule whose time is sigma."""
    low, ratio = estimator.sigma_min, estimator.sigma_max / estimator.sigma_min
    schedule = Schedule.edm(low * ratio**estimator.t_min, low * ratio**estimator.t_max)

    def score(theta: Tensor, t: Tensor) -> Tensor:
        return potential.gradient(theta, ((t[0] / low).log() / math.log(ratio)).to(theta.dtype))

    return Path(schedule, "score", lambda t: low * ratio**t, score)


def _variance_preserving(potential: Any, estimator: Any) -> Path:
    """beta(t) linear from beta_min to beta_max on [0, 1], on a schedule whose time is t / t_max."""
    end = estimator.t_max
    first, last = end * estimator.beta_min, end * (estimator.beta_min + end * (estimator.beta_max - estimator.beta_min))
    schedule = Schedule.vp(first, last, estimator.t_min / end)

    def score(theta: Tensor, t: Tensor) -> Tensor:
        return potential.gradient(theta, (t[0] * end).to(theta.dtype))

    return Path(schedule, "score", lambda t: t / end, score)
