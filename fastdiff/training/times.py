"""Laws of training times, each as its quantile function: t = law(schedule, u) of u in [0, 1].

u is `torch.rand(B)`, or better `strata(B)`, whose batches vary less, or what an `Importance` chose.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..plans.schedule import Schedule
from ..plans.schedule_argument import require_schedule
from .forward import FARTHEST


def strata(
    count: int, *, shuffle: bool = True, generator: torch.Generator | None = None, device: torch.device | str = "cpu"
) -> Tensor:
    """u [count] float32, one in each interval [i, i + 1) / count, uniform in it; each alone is uniform in [0, 1].

    The mean over them of any function has no more variance than over independent ones (Kingma et al. 2021,
    appendix I.1, has a lattice to the same end). shuffle: in random order. Without it u rises along the batch, which is
    right where the data are in random order anyway.
    """
    if count < 1:
        raise ValueError(f"count: expected a whole number >= 1, got {count}")
    order = torch.randperm(count, generator=generator, device=device) if shuffle else torch.arange(count, device=device)
    return (order + torch.rand(count, generator=generator, device=device)) / count


def uniform(schedule: Schedule, u: Tensor, prediction: str | None = None) -> Tensor:
    """t [B] uniform over the schedule's times; on flow schedules then shifted (Esser et al. 2024, eq. 23).

    u: [B] in [0, 1]. prediction: what the model predicts, by default the schedule's; a velocity is learnt down to
    clean data, where others have no target.
    """
    require_schedule(schedule)
    low = float(schedule.unshift_time(schedule.least_time(prediction or schedule.default_prediction)))
    t = (schedule.t_max - low) * u + low
    return _of_float64(schedule.shift_time(_float64(t)), u)


def logit_normal(schedule: Schedule, u: Tensor, mean: float = 0.0, std: float = 1.0) -> Tensor:
    """t [B] whose share of the way from t_min to t_max has a normal logit (Esser et al. 2024, eq. 19).

    On flow schedules the way is from 0 to 1, and t is then shifted. mean: below 0 for more of the clean end.
    Raises ValueError for std <= 0.
    """
    _positive("std", std)
    return uniform(schedule, torch.sigmoid(mean + std * torch.special.ndtri(u)), "flow_prediction")


def log_normal(schedule: Schedule, u: Tensor, mean: float = -1.2, std: float = 1.2) -> Tensor:
    """t [B] at which ln(sigma / alpha) is normal, within [t_min, t_max] (Karras et al. 2022, table 1).

    The paper's mean and std are those for data of standard deviation 0.5. Raises ValueError for std <= 0.
    """
    require_schedule(schedule)
    _positive("std", std)
    sigma = torch.exp((mean + std * torch.special.ndtri(u)).clamp(-FARTHEST, FARTHEST))
    return _of_float64(schedule.t_of_log_snr(-np.log(_float64(sigma))), u)


def usual(schedule: Schedule, u: Tensor, prediction: str | None = None) -> Tensor:
    """`log_normal` where the variance explodes, else `uniform`."""
    require_schedule(schedule)
    return log_normal(schedule, u) if schedule.kind == "ve" else uniform(schedule, u, prediction)


def _float64(t: Tensor) -> np.ndarray:
    return t.detach().cpu().double().numpy()


def _of_float64(t: np.ndarray, like: Tensor) -> Tensor:
    return torch.as_tensor(t).to(like.device, like.dtype)


def _positive(name: str, value: float) -> None:
    if not value > 0:
        raise ValueError(f"{name}: expected a number > 0, got {value}")
