"""Rectified-flow models of a host (SD3, Flux): x = (1 - sigma) x0 + sigma eps, sigma from 1 to 0.

dx/dsigma = (x - D) / sigma holds for them as it does for k-diffusion's own x0 + sigma eps, so solvers of that ODE are
the same for both. What puts noise back, or works in log SNR, must know alpha = 1 - sigma.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from torch import Tensor

from ..plans.catalogue import find_solver
from ..plans.row import Row
from ..plans.schedule import Points, Schedule
from ..plans.solvers.churn import renoised

FLOW = Schedule.flow(t_min=1e-12)
FIRST = 1e-4  # of a run's length: where log SNR begins instead of -inf


def flow_sampling(model: object) -> object | None:
    """The host's object that says its model is a rectified flow; None for every other model.

    In ComfyUI the model_sampling, which is a CONST; in Forge the predictor, of prediction_type "const".
    """
    guider = getattr(model, "inner_model", None)
    sampling = getattr(getattr(guider, "inner_model", None), "model_sampling", None)
    if sampling is None and hasattr(guider, "model_patcher"):
        sampling = guider.model_patcher.get_model_object("model_sampling")
    if sampling is None:
        sampling = getattr(guider, "predictor", None)
    return sampling if _is_flow(sampling) else None


def _is_flow(sampling: object) -> bool:
    constant = any(kind.__name__ == "CONST" for kind in type(sampling).__mro__)
    return constant or getattr(sampling, "prediction_type", None) == "const"


def finite_log_snr(sigmas: Tensor, sampling: object) -> Tensor:
    """The levels, the first of them moved from 1, where log SNR is infinite, to the host's sigma at FIRST."""
    if sigmas[0] >= 1:
        sigmas = sigmas.clone()
        sigmas[0] = sampling.percent_to_sigma(FIRST)
    if (sigmas >= 1).any():
        raise ValueError(
            f"sigmas: expected levels below 1 after the first, where a rectified flow has a log SNR; got {sigmas}"
        )
    return sigmas


def ancestral(ode: str, coordinates: Schedule) -> Callable[..., list[Row]]:
    """Steps of an ODE solver down to sigma_down = sigma_t (1 + eta (sigma_t / sigma_s - 1)), and noise up to sigma_t.

    The way up is the forward process: x / alpha keeps its data. eta = 1 goes down to sigma_t^2 / sigma_s.
    coordinates: the schedule that the solver sees, any that has sigma; FLOW where its stages are laid out in log SNR.
    """
    build = find_solver(ode)[0].build

    def rows_of(
        schedule: Schedule, points: Points, prediction: str, *, eta: float = 1.0, s_noise: float = 1.0
    ) -> list[Row]:
        rows: list[Row] = []
        for i in range(len(points.t) - 1):
            s, t = points.at(i), points.at(i + 1)
            down = sigma_down(float(s.sigma), float(t.sigma), eta)
            with np.errstate(invalid="ignore"):  # beyond sigma = 1 there is no log SNR, and steps are of first order
                rows += build(coordinates, coordinates.at(np.array([s.sigma, down])), prediction)
            if eta and t.sigma:
                rows[-1] = renoised(rows[-1], schedule.at(down), t, i + 1, s_noise)
        return rows

    return rows_of


def sigma_down(sigma_s: float, sigma_t: float, eta: float) -> float:
    """The level from which noise leads up to sigma_t."""
    return sigma_t * max(0.0, 1 + eta * (sigma_t / sigma_s - 1))
