"""ComfyUI's model_sampling as a `fastdiff.Schedule`, and its noise levels."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..plans.align_your_steps import SIGMAS, TIMES
from ..plans.grid import GRIDS, make_grid
from ..plans.schedule import Points, Schedule
from .levels import is_flow

GRID_NAMES = (*GRIDS, *(f"ays:{name}" for name in dict.fromkeys((*SIGMAS, *TIMES))))


def schedule_of(model_sampling: Any) -> Schedule:
    """The schedule of a model: of a rectified flow, of a table of training steps, or of a range of sigmas."""
    least, most = float(model_sampling.sigma_min), float(model_sampling.sigma_max)
    if is_flow(model_sampling):
        half = float(model_sampling.percent_to_sigma(0.5))  # shift / (1 + shift)
        shift = half / (1 - half)
        return Schedule.flow(shift, t_min=least / (shift - (shift - 1) * least))
    if any(kind.__name__ == "ModelSamplingDiscrete" for kind in type(model_sampling).__mro__):
        return Schedule.from_alphas_cumprod(1 / (1 + model_sampling.sigmas.double().cpu().numpy() ** 2))
    return Schedule.edm(least, most)


def up_to(schedule: Schedule, model_sampling: Any, denoise: float) -> Schedule:
    """The schedule below ComfyUI's level at the percentage 1 - denoise of the model's time: for image to image.

    It has no whole training indices, since grids of those begin elsewhere.
    Raises ValueError unless 0 < denoise <= 1.
    """
    if not 0 < denoise <= 1:
        raise ValueError(f"denoise: expected a number in (0, 1], got {denoise}")
    shorter = copy.copy(schedule)
    shorter.num_train_timesteps = None
    if denoise < 1:
        shorter.t_max = float(schedule.at_coordinate(np.float64(model_sampling.percent_to_sigma(1 - denoise))).t)
    return shorter


def is_flow_form(points: Points) -> bool:
    """Whether x = (1 - sigma) x0 + sigma eps at all of them."""
    return bool(np.all(np.abs(points.alpha + points.sigma - 1) < 1e-9))


def level_of(points: Points) -> np.ndarray:
    """ComfyUI's sigma at points of one run: sigma of a flow, sigma / alpha of all others."""
    with np.errstate(divide="ignore"):
        return points.sigma if is_flow_form(points) else points.sigma / points.alpha


def sigmas_on(model_sampling: Any, grid: str, steps: int, denoise: float = 1.0) -> Tensor:
    """ComfyUI's SIGMAS [steps + 1] of a grid by name, float32 on the CPU.

    denoise: below 1 the last `steps` of a run of steps / denoise; at 0 none. Raises ValueError where the model has no
    such grid.
    """
    if denoise <= 0:
        return torch.empty(0)
    total = steps if denoise >= 1 else int(steps / denoise)
    schedule = schedule_of(model_sampling)
    levels = level_of(make_grid(schedule, total, grid))
    return torch.tensor(levels[-(steps + 1) :], dtype=torch.float32)
