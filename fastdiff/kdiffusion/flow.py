"""Rectified-flow models of a host (SD3, Flux): x = (1 - sigma) x0 + sigma eps, sigma from 1 to 0.

They obey dx/dsigma = (x - D) / sigma, as k-diffusion's own x = x0 + sigma eps does, so solvers of that ODE serve both.
A solver that adds noise, or works in log SNR, must know that alpha = 1 - sigma.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from torch import Tensor

from ..plans.catalogue import find_solver
from ..plans.row import Row
from ..plans.schedule import Points, Schedule
from ..plans.solvers.churn import renoised

FLOW = Schedule.flow(t_min=1e-12)
FIRST_SHARE = 1e-4  # of the run: a solver in log SNR starts this far in, since log SNR is -inf at sigma = 1


def flow_sampling(model: object) -> Any:
    """The host's object that marks its model as a rectified flow; None for any other model.

    In ComfyUI that is the model_sampling, a CONST; in Forge it is the predictor, with prediction_type "const".
    """
    sampling = model_sampling(model)
    return sampling if _is_flow(sampling) else None


def model_sampling(model: object) -> Any:
    """The host's object that knows its model's sigmas; None outside a host."""
    guider = getattr(model, "inner_model", None)
    sampling = getattr(getattr(guider, "inner_model", None), "model_sampling", None)
    if sampling is None and guider is not None and hasattr(guider, "model_patcher"):
        sampling = guider.model_patcher.get_model_object("model_sampling")
    if sampling is None:
        sampling = getattr(guider, "predictor", None)
    return sampling


def _is_flow(sampling: object) -> bool:
    constant = any(kind.__name__ == "CONST" for kind in type(sampling).__mro__)
    return constant or getattr(sampling, "prediction_type", None) == "const"


def finite_log_snr(sigmas: Tensor, sampling: Any) -> Tensor:
    """The sigmas, with a first one of 1 moved to the host's sigma at FIRST_SHARE, where log SNR is finite."""
    if sigmas[0] >= 1:
        sigmas = sigmas.clone()
        sigmas[0] = sampling.percent_to_sigma(FIRST_SHARE)
    if (sigmas >= 1).any():
        raise ValueError(
            f"sigmas: expected levels below 1 after the first, where a rectified flow has a log SNR; got {sigmas}"
        )
    return sigmas


def schedule_up_to_one(model: object, sigmas: Tensor) -> Schedule | None:
    """FLOW for a rectified flow, None for others. Raises ValueError where a flow's sigmas are beyond 1."""
    if flow_sampling(model) is None:
        return None
    if (sigmas > 1).any():
        raise ValueError(f"sigmas: expected levels up to 1 for a rectified flow, got {sigmas}")
    return FLOW


def ancestral(ode: str, coordinates: Schedule) -> Callable[..., list[Row]]:
    """Ancestral steps: the ODE solver to sigma_down = sigma_t (1 + eta (sigma_t / sigma_s - 1)), noise up to sigma_t.

    Noise is added by the forward process, which keeps the data in x / alpha. eta = 1 steps down to sigma_t^2 / sigma_s.
    coordinates: the schedule that the solver sees. Any with the same sigma will do; FLOW if it places stages in log
    SNR.
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
    """The sigma that an ancestral step goes down to before noise takes it up to sigma_t."""
    return sigma_t * max(0.0, 1 + eta * (sigma_t / sigma_s - 1))
