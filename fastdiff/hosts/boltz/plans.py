"""The noise levels of an AtomDiffusion, its own sampler as a plan, and the default."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ...plans.build import plan as make_plan
from ...plans.plan import Plan
from ...plans.schedule import Schedule
from ...plans.tabulated import EDM_SPREAD

OWN = "boltz"


def unit(diffusion: Any) -> float:
    """The length, in Angstrom, that is 1 in plans: twice sigma_data, so that the data have EDM's spread of 0.5."""
    return float(diffusion.sigma_data) / EDM_SPREAD


def schedule(diffusion: Any) -> Schedule:
    """The noise levels that the module was trained for, in units of `unit`: 2560 Angstrom are 80.

    The upper end leaves room for the noise that the host puts back before its first step.
    """
    low, high = float(diffusion.sigma_min) * EDM_SPREAD, float(diffusion.sigma_max) * EDM_SPREAD
    return Schedule.edm(low, high * (1 + float(diffusion.gamma_0)))


def levels(diffusion: Any, steps: int) -> np.ndarray:
    """`AtomDiffusion.sample_schedule` in units of `unit`: uniform in sigma^(1/rho), and 0 at the end [steps + 1]."""
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 2:
        raise ValueError(f"num_sampling_steps: expected a whole number >= 2, got {steps!r}")
    power = 1 / float(diffusion.rho)
    high, low = float(diffusion.sigma_max) ** power, float(diffusion.sigma_min) ** power
    return np.append(EDM_SPREAD * np.linspace(high, low, steps) ** float(diffusion.rho), 0.0)


def plan(diffusion: Any, steps: int | None = None, solver: str | None = None, *, guided: bool = False) -> Plan:
    """The plan of a run with `steps` steps, the module's own number if None.

    diffusion: a boltz `AtomDiffusion`. solver: None for the default of `fastdiff.plan`, an ODE solver for so few
        evaluations; "boltz" for the module's own sampler, with its gamma_0, gamma_min, noise_scale and step_scale; or a
        solver of `fastdiff.solvers()` on the module's own noise levels. guided: of None; whether potentials steer.
    Lengths are in units of `unit`. Raises ValueError naming the argument.
    """
    steps = diffusion.num_sampling_steps if steps is None else steps
    noise = schedule(diffusion)
    if solver is None:
        high = Schedule.edm(noise.t_min, float(diffusion.sigma_max) * EDM_SPREAD)
        return make_plan(None, high, steps, prediction="sample", guided=guided)
    sigmas = levels(diffusion, steps)
    if solver != OWN:
        return make_plan(solver, noise, sigmas=sigmas, prediction="sample")
    # The host churns before the steps that end above gamma_min; a plan before those that begin above s_tmin.
    above = int((sigmas * unit(diffusion) > float(diffusion.gamma_min)).sum())
    least = math.inf if above < 2 else math.sqrt(sigmas[above - 2] * sigmas[above - 1])
    return make_plan(
        "euler", noise, sigmas=sigmas, prediction="sample", s_churn=math.inf, max_churn=float(diffusion.gamma_0),
        s_tmin=least, s_noise=float(diffusion.noise_scale), step_scale=float(diffusion.step_scale),
    )  # fmt: skip
