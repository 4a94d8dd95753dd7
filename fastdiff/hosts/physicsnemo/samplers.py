"""Twins of PhysicsNeMo's `deterministic_sampler` and `stochastic_sampler`, with `solver=` any of fastdiff's."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ...plans.plan import Plan
from .levels import RANGES, default_range, levels_of
from .network import Network
from .plans import own_plan, plan_of
from .run import run_plan

CHOICES = {
    "discretization": tuple(RANGES),
    "schedule": ("vp", "ve", "linear"),
    "scaling": ("vp", "none"),
}


def deterministic_sampler(
    net: Any,
    latents: Tensor,
    img_lr: Tensor,
    class_labels: Tensor | None = None,
    randn_like: Callable[[Tensor], Tensor] = torch.randn_like,
    patching: Any = None,
    mean_hr: Tensor | None = None,
    lead_time_label: Tensor | None = None,
    num_steps: int = 18,
    sigma_min: float | None = None,
    sigma_max: float | None = None,
    rho: float = 7.0,
    solver: str | Plan | None = None,
    discretization: str = "edm",
    schedule: str = "linear",
    scaling: str = "none",
    epsilon_s: float = 1e-3,
    C_1: float = 0.001,
    C_2: float = 0.008,
    M: int = 1000,
    alpha: float = 1.0,
    S_churn: int = 0,
    S_min: float = 0.0,
    S_max: float = float("inf"),
    S_noise: float = 1.0,
    dtype: torch.dtype = torch.float64,
) -> Tensor:
    """Samples [B, C, H, W] in `dtype`, by PhysicsNeMo's arguments.

    solver: None for `fastdiff.plan`'s measured default, with num_steps evaluations of the network where PhysicsNeMo's
        Heun makes 2 num_steps - 1; "heun" and "euler" for PhysicsNeMo's own, to rounding; another solver of fastdiff on
        the levels of `discretization`; or a `fastdiff.Plan` for a model that predicts the sample, which says the levels
        itself.
    net: net(x, x_lr, sigma, class_labels, **labels) -> D, or an EDMPrecond, which takes condition=.
    schedule, scaling, alpha: other than by default they are PhysicsNeMo's own "heun" and "euler", which then run.
    S_churn, S_min, S_max, S_noise: of "heun" and "euler".
    The others are PhysicsNeMo's: see there. No gradients are recorded. Raises ValueError as PhysicsNeMo does.
    """
    for name, value in {"discretization": discretization, "schedule": schedule, "scaling": scaling}.items():
        if value not in CHOICES[name]:
            raise ValueError(f"Unknown {name} {value}")
    own = solver in ("heun", "euler")
    network = Network(net, latents, img_lr, class_labels, patching, mean_hr, lead_time_label)
    low, high = default_range(discretization, epsilon_s)
    low = max(low if sigma_min is None else sigma_min, net.sigma_min)
    high = min(high if sigma_max is None else sigma_max, net.sigma_max)
    if (schedule, scaling, alpha) != ("linear", "none", 1.0):
        if not own:
            raise ValueError(f"solver: schedule, scaling and alpha belong to 'heun' and 'euler', got {solver!r}")
        from physicsnemo.diffusion.samplers import deterministic_sampler as theirs

        return theirs(
            net, latents, img_lr, class_labels, randn_like, patching, mean_hr, lead_time_label, num_steps, sigma_min,
            sigma_max, rho, solver, discretization, schedule, scaling, epsilon_s, C_1, C_2, M, alpha, S_churn, S_min,
            S_max, S_noise, dtype,
        )  # fmt: skip
    levels = levels_of(discretization, num_steps, low, high, rho, epsilon_s, C_1, C_2, M)
    if own:
        churn = {"s_churn": S_churn, "s_tmin": S_min, "s_tmax": S_max, "s_noise": S_noise}
        plan = own_plan(str(solver), net, levels, {k: float(v) for k, v in churn.items()} if S_churn else {})
    elif S_churn:
        raise ValueError(f"S_churn: belongs to solver='heun' and 'euler', got {solver!r}")
    else:
        plan = plan_of(solver, net, levels)
    return run_plan(plan, network, latents.to(dtype), randn_like, float(levels[0]), S_noise, bool(S_churn))


def stochastic_sampler(
    net: Any,
    latents: Tensor,
    img_lr: Tensor,
    class_labels: Tensor | None = None,
    randn_like: Callable[[Tensor], Tensor] = torch.randn_like,
    patching: Any = None,
    mean_hr: Tensor | None = None,
    lead_time_label: Tensor | None = None,
    num_steps: int = 18,
    sigma_min: float = 0.002,
    sigma_max: float = 800,
    rho: float = 7,
    S_churn: float = 0,
    S_min: float = 0,
    S_max: float = float("inf"),
    S_noise: float = 1,
    solver: str | Plan | None = None,
) -> Tensor:
    """Samples [B, C, H, W] in latents' dtype, by PhysicsNeMo's arguments, and solver.

    solver: as in `deterministic_sampler`; with S_churn > 0 "heun" where it is None, for no other puts noise back. A
        stochastic solver of fastdiff, such as "dpmpp_2m_sde", draws its noise by randn_like.
    The others are PhysicsNeMo's: see there. No gradients are recorded. Raises ValueError as PhysicsNeMo does.
    """
    low, high = max(sigma_min, net.sigma_min), min(sigma_max, net.sigma_max)
    network = Network(net, latents, img_lr, class_labels, patching, mean_hr, lead_time_label)
    levels = levels_of("edm", num_steps, low, high, rho, 1e-3, 0.001, 0.008, 1000)
    if S_churn and solver not in (None, "heun", "euler"):
        raise ValueError(f"S_churn: belongs to solver='heun' and 'euler', got {solver!r}")
    if S_churn or solver in ("heun", "euler"):
        churn = {"s_churn": S_churn, "s_tmin": S_min, "s_tmax": S_max, "s_noise": S_noise, "max_churn": math.inf}
        plan = own_plan(str(solver or "heun"), net, levels, {k: float(v) for k, v in churn.items()} if S_churn else {})
    else:
        plan = plan_of(solver, net, levels)
    return run_plan(plan, network, latents, randn_like, float(levels[0]), S_noise, bool(S_churn))
