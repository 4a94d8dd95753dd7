"""sbi's `Diffuser` and its adaptive ODE beside the predictor "fastdiff", on exact mixtures.

Each is measured from the end that it aims at: sbi's at t_min, fastdiff's at clean data. `euler_maruyama` is taken
without its noise (eta = 1e-6), which has less error at few steps than the default with noise and can be compared.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from sbi.inference.potentials.vector_field_potential import VectorFieldBasedPotential
from sbi.neural_nets.estimators.flowmatching_estimator import FlowMatchingEstimator
from sbi.neural_nets.estimators.score_estimator import VEScoreEstimator, VPScoreEstimator
from sbi.samplers.score import Diffuser
from torch import Tensor, nn

import fastdiff.hosts.sbi  # noqa: F401

from ..mixtures import Mean, Shape
from .row import EVALUATIONS, SHAPES, Row, error, mean_of, parity, start, version

OWN_STEPS = 500


class ExactScore:
    """Replaces an estimator's network by the score of a mixture, and counts its calls."""

    data: Mean
    calls = 0

    def forward(self, input: Tensor, condition: Tensor, time: Tensor) -> Tensor:
        self.calls += 1
        alpha, sigma = self.mean_t_fn(time.reshape(-1)[:1])[0], self.std_fn(time.reshape(-1)[:1])[0]  # type: ignore
        x = input.reshape(-1, input.shape[-1])
        score = (alpha * self.data(x, alpha, sigma) - x) / sigma**2
        return score.reshape(input.shape)


class ExactVP(ExactScore, VPScoreEstimator):
    pass


class ExactVE(ExactScore, VEScoreEstimator):
    pass


class ExactFlow(FlowMatchingEstimator):
    data: Mean
    calls = 0

    def forward(self, input: Tensor, condition: Tensor, time: Tensor) -> Tensor:
        self.calls += 1
        t = time.reshape(-1)[0]
        x = input.reshape(-1, input.shape[-1])
        data = self.data(x, 1 - t, t + self.noise_scale)
        return ((x - (1 - t) * data) / (t + self.noise_scale) - data).reshape(input.shape)


def potential_of(kind: type, shape: Shape) -> VectorFieldBasedPotential:
    size = torch.Size([shape.size])
    estimator = kind(nn.Linear(1, 1), size, torch.Size([1])).double()
    estimator.data = mean_of(shape)
    potential = VectorFieldBasedPotential(estimator, None)
    potential.set_x(torch.zeros(1, 1, dtype=torch.float64))
    return potential


def run(potential: Any, theta: Tensor, predictor: str, params: dict, ts: Tensor) -> Tensor:
    """The `Diffuser`'s run from this start."""
    diffuser = Diffuser(potential, predictor, predictor_params=params)
    diffuser.initialize = lambda count: theta  # type: ignore[method-assign]
    return diffuser.run(len(theta), ts, show_progress_bars=False)


def ode(potential: Any, theta: Tensor, **tolerances: float) -> Tensor:
    """sbi's ODE from this start, by zuko."""
    with torch.no_grad():
        return potential.neural_ode(potential.x_o, **tolerances).transform.inv(theta)


def rows() -> Iterator[Row]:
    for kind, use in ((ExactVP, "NPSE vp"), (ExactVE, "NPSE ve"), (ExactFlow, "FMPE")):
        for shape in SHAPES:
            yield from of(kind, f"{use}, {shape.name}", shape)


def of(kind: type, use: str, shape: Shape) -> Iterator[Row]:
    torch.manual_seed(0)
    potential = potential_of(kind, shape)
    estimator = potential.vector_field_estimator
    theta = estimator.mean_base + estimator.std_base * start(shape)[:, None]
    exact = ode(potential, theta, atol=1e-8, rtol=1e-8)
    last = torch.tensor(estimator.t_min, dtype=torch.float64)
    clean = exact
    if kind is not ExactFlow:
        alpha, sigma = estimator.mean_t_fn(last[None])[0], estimator.std_fn(last[None])[0]
        clean = estimator.data(exact[:, 0], alpha, sigma)[:, None]

    def ours(evaluations: int) -> float:
        return error(run(potential, theta, "fastdiff", {}, estimator.solve_schedule(evaluations + 1)), clean)

    same = None
    if kind is ExactFlow:  # Euler of dx/dt = v is DDIM; sbi's own is clamped before t = 0.99
        ts = torch.linspace(0.98, 0.0, 21, dtype=torch.float64)
        by_euler = run(potential, theta, "euler_maruyama", {"eta": 1e-9}, ts)
        same = parity(run(potential, theta, "fastdiff", {"plan": "ddim", "ts": ts}, ts), by_euler)
    label = ("version", version("sbi"))
    for evaluations in (*EVALUATIONS, OWN_STEPS - 1):
        by_euler = run(potential, theta, "euler_maruyama", {"eta": 1e-6}, estimator.solve_schedule(evaluations + 1))
        default = evaluations == OWN_STEPS - 1
        yield Row(
            "sbi", label[1], use, evaluations, "euler_maruyama", error(by_euler, exact), "default",
            ours(evaluations), same, default and kind is not ExactFlow,
        )  # fmt: skip
    estimator.calls = 0
    by_zuko = ode(potential, theta)
    evaluations = estimator.calls
    yield Row(
        "sbi", label[1], use, evaluations, "zuko's dopri5", error(by_zuko, exact), "default", ours(evaluations),
        None, kind is ExactFlow,
    )  # fmt: skip
