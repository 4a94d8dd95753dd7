"""Flow-map models: model(x, t, r) predicts the mean velocity from time t to time r."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from ..plans.plan import Plan


def flow_map(model: Callable[..., Tensor], plan: Plan) -> Callable[..., Tensor]:
    """Adapt a flow-map model to `fastdiff.sample` for runs of this plan: f(x, t, ...) = model(x, t, r, ...).

    model: model(x [B, ...], t [B], r [B], **kwargs) -> the mean velocity u [B, ...] from t to r, x_r = x + (r - t) u
    (MeanFlow: Geng et al. 2025, arXiv 2505.13447, eq. 9; shortcut models, with d = t - r: Frans et al. 2024, arXiv
    2410.12557). r is the time of the plan's next row, or of its end after the last row. An Euler step on a flow
    schedule is then exact: plan = fd.plan("euler", fd.Schedule.flow(), steps, prediction="flow_prediction").
    Raises ValueError for a plan with several evaluations per step, or whose prediction is not a velocity.
    """
    times = [row.t for row in plan.rows]
    if plan.prediction != "flow_prediction" or any(row.alpha + row.sigma != 1 for row in plan.rows):
        raise ValueError(f"plan: expected a flow schedule and flow_prediction, got {plan.prediction}")
    if any(a <= b for a, b in pairwise(times)):
        raise ValueError(f"plan: expected one evaluation a step, at times that fall, got {times}")
    tables: dict[torch.device, Tensor] = {}

    def with_target(x: Tensor, t: Tensor, **kwargs: object) -> Tensor:
        if t.device not in tables:
            tables[t.device] = torch.tensor([*times, plan.end[1]], dtype=torch.float64, device=t.device)
        known = tables[t.device]
        row = (t.double()[:, None] - known[:-1]).abs().argmin(1)  # found on the device, so that the host does not wait
        return model(x, t, known[row + 1].to(t.dtype), **kwargs)

    vars(with_target)["__wrapped__"] = getattr(model, "forward", model)  # where its keywords are named
    return with_target
