"""Whether a plan is what a pipeline asks for: by its scheduler's configuration, and by its call of set_timesteps."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence

import numpy as np

from ..plans.plan import Plan
from ..plans.schedule import Schedule
from .run_state import Scheduler
from .space import Wanted

OWN = ("plan", "num_train_timesteps", "prediction_type")  # what a PlanScheduler that knows no pipeline has
WITHOUT = "fastdiff.PlanScheduler(plan) runs a plan without comparing"
MAX_UNEVENNESS = 2e-3  # how far from even a pipeline's own grid is: some round its times to whole numbers
LEAST_TIME = 1e-3  # of Schedule.flow before its shift, where not given
KINDS = {"flow": "flow", "vp": "variance-preserving", "ve": "variance-exploding"}


def kind_of(plan: Plan) -> str:
    """ "flow" (alpha + sigma = 1), "vp" (alpha^2 + sigma^2 = 1) or "ve" (alpha = 1); "custom" where it is none."""
    _, alpha, sigma = np.array(_levels(plan)).T
    fits = {
        "flow": np.allclose(alpha + sigma, 1, atol=1e-6),
        "vp": np.allclose(alpha**2 + sigma**2, 1, atol=1e-6),
        "ve": np.allclose(alpha, 1),
    }
    kinds = [kind for kind, fit in fits.items() if fit]
    if len(kinds) > 1:  # clean data or pure noise alone
        return "flow" if plan.prediction == "flow_prediction" else "vp"
    return kinds[0] if kinds else "custom"


def _levels(plan: Plan) -> Sequence[tuple[float, float, float]]:
    """(t, alpha, sigma) of the plan's schedule, or where that is not known of its rows."""
    return plan.schedule or [(row.t, row.alpha, row.sigma) for row in plan.rows]


def training_times(plan: Plan) -> int:
    """num_train_timesteps of a pipeline that the plan is for, as far as the plan tells."""
    discrete = kind_of(plan) == "vp" and plan.schedule and plan.schedule[-1][0] > 1
    return round(plan.schedule[-1][0]) + 1 if discrete else 1000


def check_config(plan: Plan, config: Mapping[str, object]) -> None:
    """Raises ValueError where the plan is for another schedule or prediction; warns of what the plan leaves out."""
    if "plan" in config and set(config) <= set(OWN):
        return
    for name, value in (("invert_sigmas", True), ("timestep_type", "continuous")):
        if config.get(name) == value:
            raise ValueError(f"config: no plan is for models with {name} = {value!r}")
    flow = _flows(config)
    own = config.get("prediction_type", "flow_prediction" if flow else "epsilon")
    own = "sample" if own == "original_sample" else own
    if plan.prediction != own:
        raise ValueError(f"plan: for a model that predicts {plan.prediction}, the pipeline's predicts {own}")
    kind, wanted = kind_of(plan), "flow" if flow else "vp"
    if kind != wanted:
        raise ValueError(
            f"plan: for a {KINDS.get(kind, kind)} schedule, the pipeline's is {KINDS[wanted]}; make it for"
            f" {'fastdiff.Schedule.flow' if flow else 'fastdiff.Schedule.from_scheduler'}"
        )
    if not flow:
        _check_levels(plan, Schedule.from_scheduler(config))
    elif not config.get("use_dynamic_shifting"):
        compare_shift(plan, float(config.get("flow_shift" if config.get("use_flow_sigmas") else "shift", 1.0)))
    for name in ("clip_sample", "thresholding"):
        if config.get(name):
            warnings.warn(f"{name}: the pipeline's scheduler bounds x0, a plan does not", stacklevel=3)


def _flows(config: Mapping[str, object]) -> bool:
    if config.get("use_flow_sigmas") or config.get("prediction_type") == "flow_prediction":
        return True
    betas = config.get("beta_schedule") or config.get("trained_betas") is not None
    if "sigma_data" in config or not (betas or "shift" in config):
        raise ValueError(f"config: expected a variance-preserving or a flow schedule, got {dict(config)}; {WITHOUT}")
    return not betas


def _check_levels(plan: Plan, schedule: Schedule) -> None:
    for t, alpha, sigma in _levels(plan):
        own = schedule.at(t)
        inside = schedule.t_clean <= t <= schedule.t_max
        if not (inside and np.allclose((alpha, sigma), (own.alpha, own.sigma), rtol=0, atol=2e-3)):
            raise ValueError(
                f"plan: for a schedule with alpha = {alpha:.5g}, sigma = {sigma:.5g} at t = {t:.5g}, the pipeline's"
                f" has {float(own.alpha):.5g}, {float(own.sigma):.5g}, from t = 0 to {schedule.t_max:.5g}; make it for"
                " fastdiff.Schedule.from_scheduler(pipe.scheduler)"
            )


def check_wanted(scheduler: Scheduler, steps: int | None, wanted: Wanted) -> None:
    """Raises ValueError where set_timesteps is asked for other times than a PlanScheduler's; warns of another shift."""
    plan, flows = scheduler.plan, scheduler._flows
    for name, values in wanted.listed.items():
        steps = _count(scheduler, name, values)
    if steps not in (None, plan.nfe):
        raise ValueError(
            f"num_inference_steps: the plan has {plan.nfe}, got {steps}; ask for {plan.nfe}, or make a plan of {steps}"
        )
    if wanted.mu is not None and not flows:
        raise ValueError(f"mu: expected none, since the plan is for no flow model; got {wanted.mu}")
    if wanted.mu is not None and scheduler.config.get("use_dynamic_shifting"):
        exponential = scheduler.config.get("time_shift_type", "exponential") == "exponential"
        compare_shift(plan, math.exp(wanted.mu) if exponential else float(wanted.mu))


def _count(scheduler: Scheduler, name: str, values: Sequence[float]) -> int:
    """How many steps the values ask for, where they ask for no other times than the plan's."""
    array, own = np.asarray(values, dtype=np.float64), scheduler._own[name]
    nfe = scheduler.plan.nfe
    if array.shape in ((nfe,), own.shape) and np.allclose(array, own[: len(array)], rtol=1e-3):
        return nfe
    top = scheduler.config.num_train_timesteps if name == "timesteps" else 1
    even = scheduler._flows and array.ndim == 1 and array.size > 0
    if not even or np.abs(array - np.linspace(top, array[-1], len(array))).max() > MAX_UNEVENNESS * top:
        raise ValueError(
            f"{name}: a plan has its own, got {values!r}; leave {name} out, or make the plan on them with"
            f" fastdiff.plan(..., {'grid' if name == 'timesteps' else name}=)"
        )
    return len(array)


def compare_shift(plan: Plan, demanded: float) -> None:
    """Warn where the plan's times were laid with another shift. A plan on times of the caller's own has none."""
    if not plan.schedule or plan.grid == "explicit":
        return
    t = plan.schedule[0][0]
    shift = t * (1 - LEAST_TIME) / (LEAST_TIME * (1 - t))
    if abs(math.log(shift / demanded)) > 0.01:
        warnings.warn(
            f"plan: its times were laid with shift {shift:.4g}, the pipeline asks for {demanded:.4g}; the plan's own"
            f" times are used. For the pipeline's, make the plan for fastdiff.Schedule.flow({demanded:.4g})",
            stacklevel=4,
        )
