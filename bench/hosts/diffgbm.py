"""diffgbm's Euler and Heun on the probability flow and velocity ODEs beside `sampler_method="fastdiff"`.

On exact mixtures in the place of the trees. euler draws noise by default (pf_ode=False); without it, as here, it has
less error at few steps and can be compared. heun makes two evaluations a step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from diffgbm._flow_matching import ReverseVelocityODE
from diffgbm.sde import get_solver, sdeint
from diffgbm.sde.diffusion_sdes import VESDE, VPSDE

from fastdiff.hosts.diffgbm import Solver

from ..mixtures import Mean
from .row import EVALUATIONS, SHAPES, Row, error, mean_of, parity, start, version

DEFAULT_STEPS = 50


def of_sde(sde: Any, mean: Mean) -> Callable[..., np.ndarray]:
    """run(y, steps, method) of this SDE's probability flow."""

    def score(y: np.ndarray, t: np.ndarray) -> np.ndarray:
        alpha, sigma = (torch.as_tensor(v[0, 0]) for v in sde.get_mean_std_pt_given_y0(np.ones_like(t), t))
        x = torch.from_numpy(y)
        return ((alpha * mean(x, alpha, sigma) - x) / sigma**2).numpy()

    def run(y: np.ndarray, steps: int, method: str) -> np.ndarray:
        return sdeint(sde, y, 1.0, 1e-5, method=method, n_steps=steps, score_fn=score, pf_ode=True)

    return run


def of_flow(mean: Mean) -> Callable[..., np.ndarray]:
    """run(y, steps, method) of the linear path's velocity."""

    def velocity(y: np.ndarray, t: np.ndarray) -> np.ndarray:
        sigma = torch.as_tensor(t[0, 0])
        x = torch.from_numpy(y)
        data = mean(x, 1 - sigma, sigma)
        return ((x - data) / sigma).numpy()

    def run(y: np.ndarray, steps: int, method: str) -> np.ndarray:
        return sdeint(ReverseVelocityODE(velocity), y, 0.0, 1 - 1e-5, method=method, n_steps=steps)

    return run


def rows() -> Iterator[Row]:
    for shape in SHAPES:
        mean = mean_of(shape)
        noise = start(shape).numpy()
        yield from measured(f"score vp, {shape.name}", of_sde(VPSDE(0.01, 20), mean), noise)
        yield from measured(f"score ve, {shape.name}", of_sde(VESDE(0.01, 20), mean), 20 * noise)
        flow = of_flow(mean)
        euler = type("AtItsTimes", (Solver,), {"plan": "ddim"})
        get_solver("euler")  # registered by the import
        own = torch.from_numpy(flow(noise, 20, "euler"))
        velocity = ReverseVelocityODE(lambda y, t, mean=mean: (y - _data(mean, y, t)) / t)
        same = parity(torch.from_numpy(euler(velocity, 20).integrate(noise, 0.0, 1.0)), own)
        yield from measured(f"flow, {shape.name}", flow, noise, same)


def _data(mean: Mean, y: np.ndarray, t: np.ndarray) -> np.ndarray:
    sigma = torch.as_tensor(t[0, 0])
    return mean(torch.from_numpy(y), 1 - sigma, sigma).numpy()


def measured(use: str, run: Callable[..., np.ndarray], noise: np.ndarray, same: float | None = None) -> Iterator[Row]:
    exact = torch.from_numpy(run(noise, 500, "fastdiff"))

    def off(steps: int, method: str) -> float:
        return error(torch.from_numpy(run(noise, steps, method)), exact)

    for evaluations in (*EVALUATIONS, DEFAULT_STEPS):
        ours = off(evaluations, "fastdiff")
        for method, steps in (("euler", evaluations), ("heun", evaluations // 2)):
            default = evaluations == DEFAULT_STEPS and method == "euler"
            yield Row(
                "diffgbm", version("diffgbm"), use, evaluations, method, off(steps, method), "default", ours, same,
                default,
            )  # fmt: skip
