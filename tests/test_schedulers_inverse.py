"""DPMSolverMultistepInverseScheduler goes up in noise: the distributions, the levels and the way back."""

from __future__ import annotations

import diffusers
import numpy as np
import pytest
import torch
from torch import Tensor

from fastdiff import schedulers

COUNT = 8_000
FLOW = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}
KINDS = {"vp": {}, "flow": FLOW, "flow shift 3": {**FLOW, "flow_shift": 3.0}}


def make(steps: int, **options: object) -> object:
    scheduler = schedulers.DPMSolverMultistepInverseScheduler(**options)
    scheduler.set_timesteps(steps)
    return scheduler


def levels(scheduler: object) -> tuple[Tensor, Tensor]:
    """(alpha, sigma) at the start of each step and at the end."""
    s = scheduler.sigmas.double()
    if scheduler.config.get("use_flow_sigmas"):
        return 1 - s, s
    return (1 + s**2) ** -0.5, s * (1 + s**2) ** -0.5


def predict(scheduler: object, i: int, x: Tensor, mean: float, std: float) -> Tensor:
    """What the perfect model of data N(mean, std^2) predicts at the start of step i."""
    alpha, sigma = (float(values[i]) for values in levels(scheduler))
    x0 = mean + alpha * std**2 / (alpha**2 * std**2 + sigma**2) * (x - alpha * mean)
    eps = (x - alpha * x0) / sigma
    return {"epsilon": eps, "flow_prediction": eps - x0, "v_prediction": alpha * eps - sigma * x0}[
        scheduler.config.prediction_type
    ]


def run(scheduler: object, x: Tensor, mean: float, std: float, generator: torch.Generator | None = None) -> Tensor:
    for i, t in enumerate(scheduler.timesteps):
        x = scheduler.step(predict(scheduler, i, x, mean, std), t, x, generator=generator).prev_sample
    return x


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("algorithm", ["sde-dpmsolver", "sde-dpmsolver++"])
@pytest.mark.parametrize("steps", [3, 50])
def test_sde_forms_carry_the_data_to_its_own_noisy_distribution(algorithm: str, order: int, kind: str, steps: int):
    """Mean and standard deviation are those of alpha x0 + sigma eps, to six standard errors."""
    generator = torch.Generator().manual_seed(order)
    for mean, std in ((0.0, 1.0), (0.0, 0.5), (1.5, 0.2)):
        scheduler = make(steps, algorithm_type=algorithm, solver_order=order, **KINDS[kind])
        alpha, sigma = levels(scheduler)
        clean = mean + std * torch.randn(COUNT, generator=generator, dtype=torch.float64)
        begun = alpha[0] * clean + sigma[0] * torch.randn(COUNT, generator=generator, dtype=torch.float64)
        x = run(scheduler, begun, mean, std, generator)
        spread = float((alpha[-1] ** 2 * std**2 + sigma[-1] ** 2).sqrt())
        assert abs(float(x.mean() - alpha[-1] * mean)) < 6 * spread / COUNT**0.5
        assert abs(float(x.std()) - spread) < 6 * spread / (2 * COUNT) ** 0.5


def test_up_the_sde_the_model_has_no_weight_and_the_data_is_kept_to_alpha():
    """x_t = (alpha_t / alpha_s) x_s + noise: where the noise is given as zeros, the ratio is all that is left."""
    scheduler = make(10, algorithm_type="sde-dpmsolver++")
    alpha, _ = levels(scheduler)
    x = start = torch.ones(2, 3)
    for t in scheduler.timesteps:
        x = scheduler.step(torch.full_like(x, 7.0), t, x, variance_noise=torch.zeros_like(x)).prev_sample
    torch.testing.assert_close(x, (alpha[-1] / alpha[0]).float() * start)


@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize("steps", [1, 2, 20, 1000])
def test_flow_levels_rise_over_those_of_the_way_down(steps: int, shift: float):
    scheduler = make(steps, flow_shift=shift, **FLOW)
    own = diffusers.DPMSolverMultistepScheduler(flow_shift=shift, **FLOW)
    own.set_timesteps(steps)
    up, down = scheduler.sigmas.numpy(), own.sigmas.numpy()
    assert (np.diff(up) > 0).all()
    np.testing.assert_allclose(up[:0:-1], down[:-1], rtol=1e-5)
    assert 0 < up[0] <= shift * 1.001e-3
    told = scheduler.timesteps.numpy()
    assert len(told) == scheduler.num_inference_steps == steps
    assert (np.abs(told - 1000 * up[:-1]) <= 1).all()


def test_flow_levels_of_the_callers_own():
    scheduler = make(3, flow_shift=2.0, **FLOW)
    scheduler.set_timesteps(sigmas=[0.1, 0.4, 0.8])
    np.testing.assert_allclose(scheduler.sigmas[:-1], [2 * s / (1 + s) for s in (0.1, 0.4, 0.8)], rtol=1e-6)
    scheduler.set_timesteps(timesteps=[100, 400, 800])
    np.testing.assert_allclose(scheduler.sigmas[:-1], [0.1, 0.4, 0.8], rtol=1e-6)
    scheduler.set_timesteps(4, mu=np.log(3.0))
    np.testing.assert_allclose(scheduler.sigmas, make(4, flow_shift=3.0, **FLOW).sigmas, rtol=1e-6)
    with pytest.raises(ValueError, match="expected levels that rise"):
        scheduler.set_timesteps(timesteps=[800, 400, 100])
    with pytest.raises(ValueError, match="use_karras_sigmas: expected none beside use_flow_sigmas"):
        make(4, use_karras_sigmas=True, **FLOW)


@pytest.mark.parametrize("kind", ["flow", "flow shift 3"])
@pytest.mark.parametrize(("algorithm", "order"), [("dpmsolver++", 2), ("dpmsolver", 2), ("dpmsolver++", 3)])
def test_flow_inversion_converges_to_the_exact_flow(algorithm: str, order: int, kind: str):
    """The probability flow of Gaussian data only rescales it, so the noise of a sample is known."""
    mean, std = 0.3, 0.8

    def error(steps: int, order: int) -> float:
        scheduler = make(steps, algorithm_type=algorithm, solver_order=order, **KINDS[kind])
        alpha, sigma = levels(scheduler)
        spread = (alpha**2 * std**2 + sigma**2).sqrt()
        whitened = torch.linspace(-2, 2, 9, dtype=torch.float64)
        x = run(scheduler, alpha[0] * mean + spread[0] * whitened, mean, std)
        return float((x - alpha[-1] * mean - spread[-1] * whitened).abs().max())

    assert error(80, order) < error(20, order) / 5
    assert error(80, order) < error(80, 1) / 4
