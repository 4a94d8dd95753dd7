"""The library's diffusions as what `fastdiff.sample` takes: a schedule, a prediction, a model."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ...plans.build import plan as make_plan
from ...plans.plan import Plan
from ...plans.prediction import convert
from ...plans.schedule import Schedule
from ..placed import Levels, placed

PREDICTIONS = {"pred_noise": "epsilon", "pred_x0": "sample", "pred_v": "v_prediction"}


class Diffusion(NamedTuple):
    """schedule, prediction: for `fastdiff.plan`. elucidated: whether it is EDM's. one_d: whether of sequences.

    shape: of one sample.
    """

    schedule: Schedule
    prediction: str
    elucidated: bool
    one_d: bool
    shape: tuple[int, ...]
    device: torch.device

    def default(self, evaluations: int) -> Plan:
        """For images: EDM's, placed on the whole times' levels and on fractions between them."""
        schedule = self.schedule
        if self.elucidated:
            return make_plan(None, schedule, evaluations, prediction="sample")
        levels = Levels(lambda t: schedule.at(t)[1:], schedule.t_max, schedule.t_min)
        return placed(make_plan(None, levels.as_edm(), evaluations), levels)[0]

    def enter(self, plan: Plan) -> float:
        """The plan's first state over the library's: over unit noise, or EDM's of sigma_max."""
        return plan.init_scale if self.elucidated else 1 / plan.rows[0].c_in


def read(diffusion: Any, last: int | None = None) -> Diffusion:
    """last: the index of the most noise, where a run begins in the middle. Raises TypeError naming the argument."""
    one_d = hasattr(diffusion, "seq_length")
    if one_d:
        shape = (diffusion.channels, diffusion.seq_length)
        shape = shape if getattr(diffusion, "channel_first", True) else shape[::-1]
    elif hasattr(diffusion, "image_size"):
        size = diffusion.image_size
        shape = (diffusion.channels, *((size, size) if isinstance(size, int) else size))
    if hasattr(diffusion, "preconditioned_network_forward"):
        schedule = Schedule.edm(float(diffusion.sigma_min), float(diffusion.sigma_max))
        return Diffusion(schedule, "sample", True, False, shape, diffusion.device)
    prediction = PREDICTIONS.get(getattr(diffusion, "objective", ""))
    if prediction is None or not hasattr(diffusion, "alphas_cumprod"):
        raise TypeError(
            "diffusion: expected a GaussianDiffusion, GaussianDiffusion1D or ElucidatedDiffusion, got"
            f" {type(diffusion).__name__}"
        )
    kept = diffusion.alphas_cumprod.double().cpu().numpy()[: None if last is None else last + 1]
    return Diffusion(Schedule.from_alphas_cumprod(kept), prediction, False, one_d, shape, diffusion.device)


def own_times(count: int, evaluations: int) -> np.ndarray:
    """The library's DDIM times but the last one, -1: whole ones, evenly from count - 1, rounded towards 0."""
    times = np.linspace(-1, count - 1, evaluations + 1, dtype=np.float32)
    return np.trunc(times)[:0:-1].astype(float)


class Calls:
    """model(x, t) -> the prediction, or x0 for plans that take it.

    Models that were trained with their own x0 as a condition are given the latest one.
    """

    def __init__(self, diffusion: Any, found: Diffusion, plan: Plan, clip: bool, given: dict[str, Any]) -> None:
        self._diffusion, self._found, self._clip, self._given = diffusion, found, clip, given
        self._times, self._x0 = iter([row.t for row in plan.rows]), None
        self._makes_x0 = plan.prediction == "sample"

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        own = self._diffusion
        if self._found.elucidated:
            x0 = m = own.preconditioned_network_forward(x, t, self._x0, clamp=self._clip)
        else:
            m = x0 = self._call(x, t)
            if own.self_condition or self._makes_x0:
                at = self._found.schedule.at(next(self._times))
                p_x, p_m = convert(self._found.prediction, "data", float(at.alpha), float(at.sigma))
                x0 = p_x * x + p_m * m
            m = x0 if self._makes_x0 else m
        if own.self_condition:
            self._x0 = x0.clamp(-1, 1) if self._clip else x0
        return m

    def _call(self, x: Tensor, t: Tensor) -> Tensor:
        if not self._found.one_d:
            return self._diffusion.model(x, t, self._x0)
        given = self._given if self._x0 is None else {**self._given, "x_self_cond": self._x0}
        return self._diffusion.model(x, t, **given)
