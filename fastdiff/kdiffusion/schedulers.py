"""ComfyUI's schedulers: its functions' names and arguments, computed in float64.

model_sampling: the host's object that knows its model's levels (`sigmas`, `sigma_min`, `sigma_max`, `timestep`,
`sigma`). A result is [n + 1] float32 on the CPU, falling, with a 0 at its end; functions that go by whole indices may
have a step more or fewer than asked for, as in ComfyUI. On a `fastdiff.Schedule` the same grids have names, see
`fastdiff.plan`; `fastdiff.plans.menu_grids` has the formulas.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..plans import menu_grids
from ..plans.align_your_steps import levels_of_model

MODELS = {"SD1": "sd15", "SDXL": "sdxl", "SVD": "svd"}


def simple_scheduler(model_sampling: Any, steps: int) -> Tensor:
    """Every (number of training levels / steps)-th training level."""
    table = _table(model_sampling)
    return _to_zero(table[menu_grids.simple(len(table), _at_least_one(steps))])


def ddim_scheduler(model_sampling: Any, steps: int) -> Tensor:
    """Every k-th training level, k whole, from the second one up."""
    table = _table(model_sampling)
    clean = table[1] < menu_grids.ALL_BUT_CLEAN  # it then takes the place of the 0
    levels = table[menu_grids.ddim_uniform(len(table), _at_least_one(steps) + clean)]
    return torch.tensor(levels, dtype=torch.float32) if clean else _to_zero(levels)


def normal_scheduler(model_sampling: Any, steps: int, sgm: bool = False, floor: bool = False) -> Tensor:
    """Uniform in the model's time, to the least level or, with sgm, to a step short of it. floor: ignored."""
    first = float(model_sampling.timestep(model_sampling.sigma_max))
    last = float(model_sampling.timestep(model_sampling.sigma_min))
    clean = not sgm and float(model_sampling.sigma(torch.tensor(last))) < menu_grids.ALL_BUT_CLEAN
    count = _at_least_one(steps) + (sgm or clean)
    times = torch.tensor(np.linspace(first, last, count)[: -1 if sgm else None], dtype=torch.float32)
    levels = np.array([float(model_sampling.sigma(time)) for time in times])
    return torch.tensor(levels, dtype=torch.float32) if clean else _to_zero(levels)


def beta_scheduler(model_sampling: Any, steps: int, alpha: float = 0.6, beta: float = 0.6) -> Tensor:
    """Training levels at quantiles of a beta distribution of the time; "beta57" is alpha = 0.5, beta = 0.7."""
    table = _table(model_sampling)
    return _to_zero(table[menu_grids.beta(len(table), _at_least_one(steps), alpha, beta)])


def linear_quadratic_schedule(
    model_sampling: Any, steps: int, threshold_noise: float = 0.025, linear_steps: int | None = None
) -> Tensor:
    """Moviegen's levels, times the largest one."""
    high = float(model_sampling.sigma_max)
    return _to_zero(
        menu_grids.linear_quadratic(_at_least_one(steps), 0.0, high, threshold_noise, linear_steps),
    )


def kl_optimal_scheduler(n: int, sigma_min: float, sigma_max: float) -> Tensor:
    """n levels uniform in atan(sigma)."""
    return _to_zero(menu_grids.kl_optimal(_at_least_one(n), sigma_min, sigma_max))


def align_your_steps_scheduler(model_type: str, steps: int, denoise: float = 1.0) -> Tensor:
    """The levels of Align Your Steps for model_type "SD1", "SDXL" or "SVD", as ComfyUI's node lays them out.

    log sigma is linear between the table's ten levels and the model's least one, which the 0 then replaces. denoise:
    the share of the steps that is kept, the last ones.
    """
    if model_type not in MODELS:
        raise ValueError(f"model_type: expected one of {', '.join(MODELS)}, got {model_type!r}")
    if denoise <= 0:
        return torch.empty(0)
    log_snr = levels_of_model(MODELS[model_type])
    at = np.linspace(0, len(log_snr) - 1, _at_least_one(steps) + 1)[:-1]
    levels = np.exp(-np.interp(at, np.arange(len(log_snr)), log_snr))
    kept = round(steps * denoise) if denoise < 1 else steps
    return _to_zero(levels[len(levels) - kept :])


def _table(model_sampling: Any) -> np.ndarray:
    return model_sampling.sigmas.double().cpu().numpy()


def _to_zero(levels: np.ndarray) -> Tensor:
    return torch.tensor(np.append(levels, 0.0), dtype=torch.float32)


def _at_least_one(steps: int) -> int:
    if not isinstance(steps, (int, np.integer)) or steps < 1:
        raise ValueError(f"steps: expected a whole number >= 1, got {steps!r}")
    return int(steps)
