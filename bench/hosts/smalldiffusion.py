"""smalldiffusion's `samples` beside fastdiff's, on its default schedule for images and on its flow."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from fastdiff.hosts.smalldiffusion import samples

from ..mixtures import Mean, Shape
from .row import EVALUATIONS, SHAPES, Row, error, mean_of, parity, start, version

CONVERGED = 500  # steps, the last but one to a level of 1e-4
OWN = {"gam = 1": 1.0, "gam = 2": 2.0}  # its DDIM, and its accelerated sampler


class Noise(torch.nn.Module):
    """What a model of the library is asked."""

    def __init__(self, mean: Mean) -> None:
        super().__init__()
        self.mean = mean

    def rand_input(self, batchsize: int) -> Tensor:
        return torch.zeros(())  # steps without noise ask for it too

    def predict_eps_cfg(self, x: Tensor, sigma: Tensor, cond: object, cfg_scale: float) -> Tensor:
        return (x - self.mean(x, torch.ones_like(sigma), sigma)) / sigma


class VelocityPredFlow(Noise):
    def predict_eps_cfg(self, x: Tensor, sigma: Tensor, cond: object, cfg_scale: float) -> Tensor:
        return (x - self.mean(x, 1 - sigma, sigma)) / sigma


def rows() -> Iterator[Row]:
    import smalldiffusion as library

    for shape in SHAPES:
        mean = mean_of(shape)
        yield from compared("ScheduleDDPM", library.ScheduleDDPM(), Noise(mean), shape)
        yield from compared("ScheduleFlow", library.ScheduleFlow(), VelocityPredFlow(mean), shape)


def compared(name: str, schedule: Any, model: Noise, shape: Shape) -> Iterator[Row]:
    from accelerate import Accelerator
    from smalldiffusion import samples as own

    accelerator = Accelerator(cpu=True)
    first = float(schedule.sample_sigmas(4)[0])
    x = first * start(shape)
    below = torch.logspace(torch.log10(torch.tensor(0.999 * first)).item(), -4, CONVERGED, dtype=torch.float64)
    levels = torch.tensor([first, *below.tolist(), 0.0], dtype=torch.float64)
    exact = last(samples(model, levels, xt=x, solver="dpm_solver_2m"))
    for n in EVALUATIONS:
        levels = schedule.sample_sigmas(n).double()
        ours = error(last(samples(model, levels, xt=x)), exact)
        for label, gam in OWN.items():
            theirs = last(own(model, levels, gam, xt=x, accelerator=accelerator))
            same = parity(last(samples(model, levels, gam, xt=x)), theirs)
            columns = f"{name}, {shape.size} dimensions", n, label, error(theirs, exact), "default", ours, same
            yield Row("smalldiffusion", version("smalldiffusion"), *columns)


def last(states: Iterator[Tensor]) -> Tensor:
    *_, x = states
    return x
