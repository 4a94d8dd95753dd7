"""The official DPM-Solver's own settings on discrete schedules, through its twin `fastdiff.dpm_solver`."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import torch
from torch import Tensor

from fastdiff.dpm_solver import DPM_Solver, NoiseScheduleVP
from fastdiff.plans.prediction import convert

from .problems import Problem

SKIPS = ("time_uniform", "logSNR", "time_quadratic")


def dpm_solver(problem: Problem) -> dict[tuple[str, str], Callable]:
    """(name, grid) -> sampler(model, noise, steps), DPM-Solver++ multistep; none on other schedules.

    To the least noise, which is its default, and with one evaluation more to clean data.
    """
    if problem.schedule.num_train_timesteps is None:
        return {}
    settings = product((2, 3), SKIPS, (False, True))
    return {
        (f"DPM-Solver {order}M{', to zero' if to_zero else ''}", skip): _sampler(problem, order, skip, to_zero)
        for order, skip, to_zero in settings
    }


def _sampler(problem: Problem, order: int, skip: str, to_zero: bool) -> Callable:
    schedule = problem.schedule
    noise_schedule = NoiseScheduleVP("discrete", alphas_cumprod=torch.as_tensor(schedule.alphas_cumprod))

    def run(model: Callable, noise: Tensor, steps: int) -> Tensor:
        def predicted_noise(x: Tensor, t: Tensor) -> Tensor:
            index = float(t[0]) * schedule.num_train_timesteps - 1  # their times are from 1 / 1000 to 1
            point = schedule.at(index)
            p_x, p_m = convert(problem.prediction, "noise", float(point.alpha), float(point.sigma))
            return p_x * x + p_m * model(x, torch.tensor(index))

        solver = DPM_Solver(predicted_noise, noise_schedule)
        return solver.sample(noise, steps, order=order, skip_type=skip, denoise_to_zero=to_zero)

    return run
