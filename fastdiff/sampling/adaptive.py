"""sample_adaptive: adaptive step size by an embedded pair; rows are made on the fly and run by the same op."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from ..keywords import check_keywords, options_of
from ..ops import checks
from ..ops.reference import compute_dtype
from ..plans.grid import LOG_SNR_CUT
from ..plans.plan import Plan
from ..plans.row import LinearUpdate, Row
from ..plans.schedule import Points, Schedule
from ..plans.schedule_argument import require_schedule
from ..plans.solvers.embedded import ORDERS, embedded_step
from ..plans.solvers.exponential import first_order
from .model import Model, ModelCalls
from .over_ranks import OverRanks
from .run import Run
from .sharded import Sharded
from .start import refuse_dtensor


@dataclass
class Controller:
    """A PID step-size controller (Soderlind 2003): the next step's length in lambda from the last errors.

    With e_n the error of the n-th step and p the order, the length is multiplied by 1 + atan(f - 1), where
    f = (1 / e_n)^((P + I + D) / p) (1 / e_(n-1))^(-(P + 2 D) / p) (1 / e_(n-2))^(D / p). A step is accepted if its own
    factor is at least `safety`.
    """

    h: float
    order: float
    proportional: float = 0.0
    integral: float = 1.0
    derivative: float = 0.0
    safety: float = 0.81
    _inverse: list[float] = field(default_factory=list)

    def propose(self, error: float) -> bool:
        """Whether a step with this error is accepted; sets h to the length to try next."""
        # An error of 0 would ask for an infinite step.
        now = 1 / (error + 1e-8)
        first, second = self._inverse or (now, now)
        p, i, d = self.proportional, self.integral, self.derivative
        factor = now ** ((p + i + d) / self.order) * first ** (-(p + 2 * d) / self.order) * second ** (d / self.order)
        # Near f for f near 1, and between 0.2 and 2.6 whatever the errors.
        factor = 1 + math.atan(factor - 1)
        accepted = factor >= self.safety
        # Errors of rejected steps are no part of the path that the controller follows.
        self._inverse = [now, first] if accepted else [first, second]
        self.h *= factor
        return accepted


@torch.no_grad()
def sample_adaptive(
    model: Model,
    schedule: Schedule,
    noise: Tensor,
    *,
    pair: str = "dpm_23",
    rtol: float = 0.05,
    atol: float = 0.0078,
    h_init: float = 0.05,
    pid: tuple[float, float, float] = (0.0, 1.0, 0.0),
    safety: float = 0.81,
    prediction: str | None = None,
    final_sigma: str = "zero",
    max_nfe: int = 1000,
    guidance: float | Tensor | None = None,
    uncond: Mapping[str, object] | None = None,
    guidance_mode: str = "batch",
    guidance_group: object = None,
    shard: Sharded | None = None,
    model_dtype: torch.dtype | None = None,
    return_plan: bool = False,
    **kwargs: object,
) -> Tensor | tuple[Tensor, Plan]:
    """Integrate the probability flow ODE with adaptive step size, and return x0 [B, ...].

    pair: the embedded pair "dpm_12", "dpm_23" or "rk_45" (`fastdiff.plans.solvers.embedded`). A step's error is the
        root mean square over all samples of (high - low) / max(atol, rtol max(|low|, |low of the step before|)).
    h_init: the first step's length in lambda = log(alpha / sigma). pid, safety: coefficients and acceptance threshold
        of the step-size controller (`Controller`). max_nfe: the most model evaluations.
    return_plan: also return the plan of the accepted steps, which draws the same sample.
    model, noise, guidance, uncond, guidance_mode, guidance_group, shard, model_dtype, kwargs: as for `fastdiff.sample`.
        With shard the error is that of the whole samples. schedule, prediction, final_sigma: as for `fastdiff.plan`.
    The host waits for the device once per step, to read the error. Raises ValueError or TypeError naming the argument,
    and RuntimeError if max_nfe evaluations do not suffice or the model returns numbers that are not finite.
    """
    require_schedule(schedule)
    _check(noise, pair, rtol, atol, h_init, final_sigma, max_nfe)
    check_keywords(model, kwargs, options_of(sample_adaptive))
    prediction = schedule.default_prediction if prediction is None else prediction
    calls = ModelCalls(model, noise.shape, guidance, uncond, guidance_mode, kwargs, guidance_group)
    if shard is not None:
        shard.check(noise)
    evaluate = calls.evaluator()
    dtype = compute_dtype(noise.dtype)
    done: list[Row] = []
    spent = 0

    def attempt(rows: list[Row], end: Points, x: Tensor) -> Run:
        nonlocal spent
        spent += len(rows)
        if spent > max_nfe:
            raise RuntimeError(f"max_nfe: {max_nfe} evaluations did not suffice for rtol={rtol}, atol={atol}")
        run = Run(
            Plan(tuple(rows), (float(end.alpha), float(end.sigma)), prediction), x,
            model_dtype=model_dtype or noise.dtype, copies=calls.copies, guidance=calls.guidance, watched=False,
        )  # fmt: skip
        run.drive(evaluate)
        return run

    s, last = schedule.at(schedule.t_max), schedule.at(schedule.t_min)
    x = noise.to(dtype) * (float(s.sigma) if float(s.alpha) == 1 else math.hypot(s.alpha, s.sigma))
    control = f"{pair} {rtol} {atol} {h_init} {pid} {safety} {max_nfe}"
    OverRanks(calls.apart, shard).require_same(x, None, guidance, control)
    # lambda is -inf there. The first-order step is exact in the limit, to where there still is nothing but noise.
    if float(s.alpha) == 0:
        done.append(first_order_row(s, schedule.at_log_snr(np.float64(LOG_SNR_CUT)), prediction))
        s = schedule.at_log_snr(np.float64(LOG_SNR_CUT))
        x = attempt(done, s, x).x
    controller = Controller(h_init, ORDERS[pair], *pid, safety)
    before = x
    while float(last.log_snr - s.log_snr) > 1e-5:
        step = min(controller.h, float(last.log_snr - s.log_snr))
        # A rest within rounding is made part of this step.
        reaches = step > float(last.log_snr - s.log_snr) - 1e-5
        t = last if reaches else schedule.at_log_snr(s.log_snr + step)
        rows = embedded_step(schedule, s, t, prediction, pair)
        run = attempt(rows, t, x)
        if controller.propose(scaled_error(run.x, run.base, before, rtol, atol, shard)):
            x, before, s = run.x, run.base, t
            # The lower order was for the error alone.
            done += [*rows[:-1], replace(rows[-1], base=None)]
    end = last
    if final_sigma == "zero":
        end = Points(np.float64(schedule.t_clean), np.float64(1), np.float64(0))
        done.append(first_order_row(last, end, prediction))
        x = attempt(done[-1:], end, x).x
    plan = Plan(tuple(done), (float(end.alpha), float(end.sigma)), prediction, pair, "adaptive")
    return (x.to(noise.dtype), plan) if return_plan else x.to(noise.dtype)


def first_order_row(s: Points, t: Points, prediction: str) -> Row:
    """The first-order step from s to t."""
    x_weight, d_weight = first_order(s, t, "data")
    return Row.at(s, "data", prediction, LinearUpdate(x=x_weight, history=(d_weight,)))


def scaled_error(
    high: Tensor, low: Tensor, before: Tensor, rtol: float, atol: float, shard: Sharded | None = None
) -> float:
    """Root mean square of (high - low) / max(atol, rtol max(|low|, |before|)). The host waits for it.

    shard: what part of the samples these are; the mean is over the whole ones.
    """
    scale = (rtol * torch.maximum(low.abs(), before.abs())).clamp_min(atol)
    squares = ((high - low) / scale).square()
    mean = squares.mean() if shard is None else shard.mean(squares)
    error = float(mean.sqrt())
    if not math.isfinite(error):
        raise RuntimeError("model: gave numbers that are not finite")
    return error


def _check(noise: Tensor, pair: str, rtol: float, atol: float, h_init: float, final_sigma: str, max_nfe: int) -> None:
    checks.require_float("noise", noise)
    refuse_dtensor("noise", noise)
    if noise.numel() == 0:
        raise ValueError(f"noise: expected at least one element, got shape {tuple(noise.shape)}")
    if pair not in ORDERS:
        raise ValueError(f"pair: expected one of {', '.join(ORDERS)}, got {pair!r}")
    for name, value in (("rtol", rtol), ("atol", atol), ("h_init", h_init), ("max_nfe", max_nfe)):
        if not value > 0:
            raise ValueError(f"{name}: expected a number > 0, got {value!r}")
    if final_sigma not in ("zero", "sigma_min"):
        raise ValueError(f"final_sigma: expected 'zero' or 'sigma_min', got {final_sigma!r}")
