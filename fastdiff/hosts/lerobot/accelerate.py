"""Which loop a policy has, the default plan for it, and the loop that takes its place."""

from __future__ import annotations

from typing import Any

from ...patch.handle import Handle
from ...plans.build import plan as make_plan
from ...plans.plan import Plan
from ...plans.schedule import Schedule
from .default import default_for_actions
from .diffusion import Trajectories, clip_range
from .flow import Actions, counts_in


def accelerate_policy(policy: Any, plan: Plan | int = 8) -> Handle:
    """Let a policy draw its action chunks by a plan, in place; `undo()` of what is returned takes it back.

    policy: lerobot's `DiffusionPolicy`, `SmolVLAPolicy`, `PI0Policy` or `PI05Policy`, another whose parts have the same
        names, or a policy of diffusion_policy (`predict_action`). Observation encoders, the prefix that flow policies
        cache, horizon, queues and the noise that a chunk starts from (`noise=`, `generator=`, torch's seed) stay.
    plan: how many evaluations of the network a chunk takes, for `plan_for`'s default; or a plan, such as `fastdiff.fit`
        finds, on the policy's schedule. Plans that draw noise take their seeds from the generator.

    Diffusion policies: x0 is bounded by clip_sample_range where the scheduler has clip_sample. The plan runs whatever
    num_inference_steps says. Flow policies: chunks with the remains of the last one (real-time chunking, or another
    num_steps than the plan's) are drawn by the library's own loop. That of compile_model=True is not compiled any more.

    Raises TypeError for what is no such policy and ValueError for a plan of another schedule or prediction.
    """
    if isinstance(plan, Plan):
        schedule, prediction = _trained_on(_owner(policy))
        if plan.prediction != prediction:
            raise ValueError(f"plan: expected one of prediction={prediction!r}, got {plan.prediction!r}")
        plan.check_schedule(schedule)
    else:
        plan = plan_for(policy, plan)
    plan.refuse_cheap_calls("which no policy makes")
    handle = Handle(policy, by="accelerate_policy")
    owner = _owner(policy)
    if _is_flow(owner):
        if plan.stochastic:
            raise ValueError("plan: expected a deterministic one for a flow policy, got one that draws noise")
        actions = Actions(owner, plan)
        handle.set_attribute(owner, "sample_actions", actions, "loops of flow policies")
        handle.set_attribute(owner, "denoise_step", actions.denoise_step, "calls of flow policies")
    else:
        trajectories = Trajectories(owner, plan, clip_range(owner.noise_scheduler))
        handle.set_attribute(owner, "conditional_sample", trajectories, "loops of diffusion policies")
    return handle


def plan_for(policy: Any, evaluations: int, solver: str | None = None, **options: Any) -> Plan:
    """A plan on the policy's own schedule, for its prediction.

    evaluations: of the network. solver: a name of `fastdiff.solvers()`, of which `evaluations` is then the number of
        steps; None for the default, found by measurement: `fastdiff.plan(None, ...)` for flow policies, and for
        diffusion policies one for actions in [-1, 1]. options: those of `fastdiff.plan`.
    Raises TypeError for what is no policy, and the errors of `fastdiff.plan`.
    """
    owner = _owner(policy)
    schedule, prediction = _trained_on(owner)
    if solver is None and not options and not _is_flow(owner):
        return default_for_actions(schedule, evaluations, prediction)
    return make_plan(solver, schedule, evaluations, **{"prediction": prediction, **options})


def _trained_on(owner: Any) -> tuple[Schedule, str]:
    """The schedule and what the network predicts."""
    if _is_flow(owner):
        return Schedule.flow(), "flow_prediction"
    return Schedule.from_scheduler(owner.noise_scheduler), owner.noise_scheduler.config.prediction_type


def _owner(policy: Any) -> Any:
    """The part of a policy that has the loop: itself, its `diffusion` or its `model`."""
    for part in (getattr(policy, "diffusion", None), policy, getattr(policy, "model", None)):
        diffusion = hasattr(part, "conditional_sample") and hasattr(part, "noise_scheduler")
        if diffusion or _is_flow(part):
            return part
    raise TypeError(
        "policy: expected a diffusion policy, with conditional_sample and noise_scheduler, or a flow policy whose model"
        f" has sample_actions and denoise_step, got {type(policy).__name__}"
    )


def _is_flow(part: Any) -> bool:
    has_loop = hasattr(part, "sample_actions") and hasattr(part, "denoise_step")
    return has_loop and counts_in(getattr(part, "config", None)) is not None
