"""Denoising losses: the mean squared error of what a model says of x_t = alpha x0 + sigma eps.

The minimiser of each is the mean of its target given x_t, whatever the weighting; weightings and times decide where a
small network is exact.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from ..ops import checks
from ..plans.schedule import Schedule
from ..plans.schedule_argument import require_schedule
from ..sampling.model import checked_output
from ..sampling.network import as_model
from .forward import check, data_per_prediction, noised, require_prediction, target
from .times import log_normal, strata, usual
from .weightings import Weighting, edm, snr

Law = Callable[[Schedule, Tensor], Tensor]


def loss(
    model: Callable[..., Any],
    schedule: Schedule,
    x0: Tensor,
    *,
    prediction: str | None = None,
    t: Tensor | Law | None = None,
    noise: Tensor | None = None,
    weighting: Weighting | None = None,
    reduction: str = "mean",
    generator: torch.Generator | None = None,
    **conditions: Any,
) -> Tensor:
    """Mean of w(t) |m(x_t, t) - target|^2 / D over the batch, with D numbers in a sample.

    model: called as model(x_t, t, **conditions), x_t in the dtype of x0 and t [B]. x0: data [B, ...].
    prediction: one of those of `target`; by default the schedule's. t: [B] times, or a law of them
    (`fastdiff.training.times`); by default the `usual` one. Drawn times are stratified. noise: eps [B, ...], by default
    fresh. weighting: of the data's error (`fastdiff.training.weightings`), turned into that of the prediction's; by
    default the prediction's own error is not weighted. reduction: "mean", or "none" for [B], one of each sample.
    generator: of times and noise, on any device.
    Raises TypeError or ValueError naming the argument.
    """
    require_schedule(schedule)
    prediction = schedule.default_prediction if prediction is None else prediction
    require_prediction(prediction)
    if reduction not in ("mean", "none"):
        raise ValueError(f"reduction: expected 'mean' or 'none', got {reduction!r}")
    t = _times(schedule, x0, prediction, t, generator)
    check(schedule, x0, t)
    noise = _noise(x0, generator) if noise is None else noise
    x = noised(schedule, x0, t, noise)
    wanted = target(schedule, prediction, x0, t, noise)
    said = checked_output(as_model(model)(x, t.to(x0.device), **conditions), tuple(x0.shape)).to(wanted.dtype)
    if weighting is None and reduction == "mean":
        return mse_loss(said, wanted)
    each = (said - wanted).square().reshape(len(x0), -1).mean(1)
    if weighting is not None:
        weight = weighting(schedule, t) * data_per_prediction(schedule, prediction, t)
        each = weight.to(each) * each
    return each.mean() if reduction == "mean" else each


def epsilon_loss(model: Callable[..., Any], schedule: Schedule, x0: Tensor, **options: Any) -> Tensor:
    """E |eps - m(x_t, t)|^2 (Ho et al. 2020, eq. 14). options: those of `loss`."""
    return loss(model, schedule, x0, prediction="epsilon", **options)


def data_loss(model: Callable[..., Any], schedule: Schedule, x0: Tensor, **options: Any) -> Tensor:
    """E |x0 - m(x_t, t)|^2. options: those of `loss`."""
    return loss(model, schedule, x0, prediction="sample", **options)


def v_loss(model: Callable[..., Any], schedule: Schedule, x0: Tensor, **options: Any) -> Tensor:
    """E |alpha eps - sigma x0 - m(x_t, t)|^2 (Salimans & Ho 2022, appendix D). options: those of `loss`."""
    return loss(model, schedule, x0, prediction="v_prediction", **options)


def flow_loss(model: Callable[..., Any], schedule: Schedule, x0: Tensor, **options: Any) -> Tensor:
    """E |eps - x0 - m(x_t, t)|^2 (Lipman et al. 2023, eq. 14; Liu et al. 2023, eq. 1). options: those of `loss`."""
    return loss(model, schedule, x0, prediction="flow_prediction", **options)


def score_loss(
    model: Callable[..., Any], schedule: Schedule, x0: Tensor, *, weighting: Weighting | None = snr, **options: Any
) -> Tensor:
    """E sigma^2 |m(x_t, t) + eps / sigma|^2: denoising score matching (Vincent 2011, eq. 10; Song & Ermon 2019, eq. 5).

    weighting: `snr` is sigma^2 on the score; `likelihood` is g^2 / 2; None is none. options: those of `loss`.
    """
    return loss(model, schedule, x0, prediction="score", weighting=weighting, **options)


def edm_loss(
    model: Callable[..., Any], schedule: Schedule, x0: Tensor, *, sigma_data: float = 0.5, **options: Any
) -> Tensor:
    """E |x0 - D(x_t, sigma)|^2 / c_out(sigma)^2 with log-normal sigma (Karras et al. 2022, eq. 2 and 8, table 1).

    model: D, with its preconditioning. sigma_data: the data's standard deviation. options: those of `loss`.
    """
    options = {"t": log_normal, "weighting": edm(sigma_data), **options}
    return loss(model, schedule, x0, prediction="sample", **options)


def _times(
    schedule: Schedule, x0: Tensor, prediction: str, t: Tensor | Law | None, generator: torch.Generator | None
) -> Tensor:
    if isinstance(t, Tensor):
        return t
    if not (t is None or callable(t)):
        raise TypeError(f"t: expected times [B], a law of them or None, got {t!r}")
    checks.require_float("x0", x0)
    device = "cpu" if generator is None else generator.device
    u = strata(len(x0), generator=generator, device=device)
    return usual(schedule, u, prediction) if t is None else t(schedule, u)


def _noise(x0: Tensor, generator: torch.Generator | None) -> Tensor:
    dtype = torch.promote_types(x0.dtype, torch.float32)
    if generator is None:
        return torch.randn_like(x0, dtype=dtype)
    return torch.randn(x0.shape, generator=generator, device=generator.device, dtype=dtype).to(x0.device)
