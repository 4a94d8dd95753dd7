"""Moving averages of weights, as torch's `AveragedModel`: `average.update_parameters(model)` after each step.

`average.module` is the model to sample from; `state_dict` has the number of updates, so that a resumed run goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


def averaged(model: nn.Module, decay: float = 0.999, *, warmup: float = 0.0) -> AveragedModel:
    """Exponential: a_1 = w_1, a_t = d_t a_(t-1) + (1 - d_t) w_t with d_t = min(decay, t / (t + warmup)).

    warmup: 0 for a constant d_t = decay. Otherwise the average forgets its beginning: while the second number is the
    less, the weight of w_t grows as t^(warmup - 1). 9 gives about the customary (1 + n) / (10 + n).
    Raises ValueError for a decay outside of [0, 1] or a warmup < 0.
    """
    if not 0 <= decay <= 1:
        raise ValueError(f"decay: expected a number in [0, 1], got {decay}")
    if not warmup >= 0:
        raise ValueError(f"warmup: expected a number >= 0, got {warmup}")
    return _averaged(model, lambda t: min(decay, t / (t + warmup)))


def power_averaged(model: nn.Module, width: float = 0.05) -> AveragedModel:
    """Power function: the weight of step s at step t is proportional to s^gamma (Karras et al. 2024, EDM2, eq. 1 to 4).

        a_t = b_t a_(t-1) + (1 - b_t) w_t,   b_t = (1 - 1 / t)^(gamma + 1)

    It has no length of its own: after any number of steps it spans the same share of the run, and w_0 weighs nothing.
    width: sigma_rel, the standard deviation of the profile as a share of the run; 0.05 and 0.10 are the paper's.
    Raises ValueError for a width outside of (0, 12^(-1/2)).
    """
    gamma = power_of(width)
    return _averaged(model, lambda t: (1 - 1 / t) ** (gamma + 1))


def power_of(width: float) -> float:
    """gamma of a profile of this width: width^2 = (gamma + 1) / ((gamma + 2)^2 (gamma + 3)) (EDM2, algorithm 2)."""
    if not 0 < width < 12**-0.5:
        raise ValueError(f"width: expected a number in (0, {12**-0.5:.4f}), got {width}")
    low, high = 0.0, 1 / width  # the width of a power g is below 1 / (g + 2)
    for _ in range(100):
        gamma = (low + high) / 2
        wide = (gamma + 1) / ((gamma + 2) ** 2 * (gamma + 3)) > width**2
        low, high = (gamma, high) if wide else (low, gamma)
    return gamma


def _averaged(model: nn.Module, decay: Callable[[int], float]) -> AveragedModel:
    """decay: of the t-th update, from 2 on; the first is a copy."""

    def update(averages: Sequence[Tensor], weights: Sequence[Tensor], count: Tensor | int) -> None:
        get_ema_multi_avg_fn(decay(int(count) + 1))(averages, weights, count)

    return AveragedModel(model, multi_avg_fn=torch.no_grad()(update))
