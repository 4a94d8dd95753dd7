"""sbi's vector fields as models of `fastdiff.sample`: the schedule, and what is asked of the network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor

from ...plans.schedule import Schedule

LATEST = 0.99  # sbi clamps the time of flows to this where it divides by 1 - t


class Path(NamedTuple):
    """theta_t = alpha theta_0 + sigma eps of an estimator in its own time, and its field.

    model: model(theta [S, ...], t [S]), which returns the schedule's default prediction.
    """

    schedule: Schedule
    model: Callable[[Tensor, Tensor], Tensor]


def path_of(potential: Any, adapted: bool) -> Path:
    """The path of potential.vector_field_estimator. adapted: whether only potential.gradient knows the whole score."""
    estimator = potential.vector_field_estimator
    return (_flow if hasattr(estimator, "noise_scale") else _score)(potential, estimator, adapted)


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

    return Path(Schedule.flow(), velocity)


def _score(potential: Any, estimator: Any, adapted: bool) -> Path:
    """VP, sub-VP and VE, and any other whose mean_t_fn and std_fn are alpha and sigma."""

    def alpha(t: Tensor) -> Tensor:
        return estimator.mean_t_fn(t).reshape(t.shape)

    def sigma(t: Tensor) -> Tensor:
        return estimator.std_fn(t).reshape(t.shape)

    def score(theta: Tensor, t: Tensor) -> Tensor:
        return potential.gradient(theta, t[0].to(theta.dtype))

    return Path(Schedule.from_functions(alpha, sigma, estimator.t_min, estimator.t_max, prediction="score"), score)
