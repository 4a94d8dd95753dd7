"""Models that map noise to data in one evaluation, and their sampling with more: noise again, then map again.

Consistency models (Song et al. 2023, arXiv 2303.01469, algorithm 1), latent consistency models (Luo et al. 2023,
arXiv 2310.04378, algorithm 3), trajectory consistency distillation (Zheng et al. 2024, arXiv 2402.19159, eq. 23).
They follow no ODE between evaluations, so they have no order of convergence: more steps only refresh.
"""

from __future__ import annotations

import math

import numpy as np

from ..row import LinearUpdate, Row
from ..schedule import Points, Schedule


def consistency(
    schedule: Schedule,
    points: Points,
    prediction: str,
    *,
    s_noise: float = 1.0,
    noise_left: float | None = None,
    timestep_scaling: float | None = None,
) -> list[Row]:
    """x_t = alpha_t x0 + sqrt(sigma_t^2 - alpha_t^2 noise_left^2) xi.

    noise_left: the noise level sigma / alpha that the model's x0 still carries; sigma_min on EDM schedules and 0 on
    others where not given. timestep_scaling: mix the model's x0 with x by the boundary condition of latent consistency
    models, c_skip = v / (tau^2 + v) and c_out = tau / sqrt(tau^2 + v), tau = timestep_scaling t, v = 1/4.
    """
    if noise_left is None:
        noise_left = float(schedule.sigma(schedule.t_min)) if schedule.kind == "ve" else 0.0
    rows = []
    for i in range(len(points.t) - 1):
        s, t = points.at(i), points.at(i + 1)
        alpha, sigma = float(t.alpha), float(t.sigma)
        # x_t = alpha_t (c_skip x + c_out D) + noise up to sigma_t, less what x0 still carries.
        c_skip, c_out = (0.0, 1.0) if timestep_scaling is None else _boundary(timestep_scaling * float(s.t))
        spread = s_noise * _rest(sigma, alpha * noise_left)
        noise = ((i + 1, spread),) if spread else ()
        line = LinearUpdate(x=alpha * c_skip, history=(alpha * c_out,), noise=noise)
        rows.append(Row.at(s, "data", prediction, line))
    return rows


def tcd(schedule: Schedule, points: Points, prediction: str, *, gamma: float = 0.3, s_noise: float = 1.0) -> list[Row]:
    """DDIM's step to the time (1 - gamma) t, then noise back up to t; gamma 0 is DDIM, gamma 1 the consistency step.

    On discrete schedules (1 - gamma) t is rounded down to a training index. The last step is not noised.
    """
    if not 0 <= gamma <= 1:
        raise ValueError(f"gamma: expected a number in [0, 1], got {gamma!r}")
    count = len(points.t) - 1
    rows = []
    for i in range(count):
        s, t = points.at(i), points.at(i + 1)
        to = t if i == count - 1 or gamma == 0 else _below(schedule, t, gamma)
        # DDIM's step to `to`, then the forward process from there up to t, which multiplies everything by
        # alpha_t / alpha_to. D gets what x leaves missing of alpha_t x0.
        scale = float(t.alpha / to.alpha)
        x_weight = scale * float(to.sigma / s.sigma)
        spread = s_noise * _rest(float(t.sigma), scale * float(to.sigma))
        noise = ((i + 1, spread),) if spread else ()
        line = LinearUpdate(x=x_weight, history=(float(t.alpha) - float(s.alpha) * x_weight,), noise=noise)
        rows.append(Row.at(s, "data", prediction, line))
    return rows


def _boundary(tau: float) -> tuple[float, float]:
    # (c_skip, c_out) of Song et al. 2023 with sigma_data = 1/2: the identity at tau = 0, where x is the data.
    return 0.25 / (tau**2 + 0.25), tau / math.sqrt(tau**2 + 0.25)


def _below(schedule: Schedule, t: Points, gamma: float) -> Points:
    # A discrete model was distilled on whole indices and knows no time between two of them.
    if schedule.num_train_timesteps is not None:
        return schedule.at(np.float64(math.floor((1 - gamma) * float(t.t))))
    return schedule.at(np.float64(schedule.t_clean + (1 - gamma) * (float(t.t) - schedule.t_clean)))


def _rest(sigma: float, kept: float) -> float:
    """sqrt(sigma^2 - kept^2), as a product."""
    return math.sqrt(max(0.0, (sigma - kept) * (sigma + kept)))
