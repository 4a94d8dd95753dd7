"""diffgbm's method "fastdiff": known ends are met, NumPy in and out, and what cannot be served is said."""

from __future__ import annotations

import numpy as np
import pytest

import fastdiff as fd
from fastdiff.hosts.diffgbm import LEAST_TIME, Solver

MEAN, SPREAD = np.array([0.5, -1.0]), np.array([0.3, 1.5])


class Forward:
    """One of diffgbm's SDEs, with its numbers."""

    hyperparam_min, hyperparam_max = 0.01, 20.0

    def alpha_sigma(self, t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        raise NotImplementedError

    def get_mean_std_pt_given_y0(self, y0: np.ndarray, t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        alpha, sigma = self.alpha_sigma(t)
        return alpha * y0, sigma


class VPSDE(Forward):
    def alpha_sigma(self, t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        integral = self.hyperparam_min * t + 0.5 * (self.hyperparam_max - self.hyperparam_min) * t**2
        return np.exp(-0.5 * integral), np.sqrt(-np.expm1(-integral))


class VESDE(Forward):
    def alpha_sigma(self, t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        level = self.hyperparam_min * (self.hyperparam_max / self.hyperparam_min) ** t
        return np.ones_like(t), np.sqrt(level**2 - self.hyperparam_min**2)


class SubVPSDE(VPSDE):
    def alpha_sigma(self, t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        alpha, sigma = super().alpha_sigma(t)
        return alpha, sigma**2


class Reversed:
    """ReverseSDE and ProbabilityFlowODE of a Gaussian's exact score."""

    def __init__(self, sde: Forward) -> None:
        self.sde, self.calls, self.t_reverse_origin = sde, 0, 1.0

    def score_fn(self, y: np.ndarray, t: np.ndarray) -> np.ndarray:
        self.calls += 1
        assert t.shape == (*y.shape[:-1], 1)
        alpha, sigma = self.sde.alpha_sigma(t)
        return (alpha * MEAN - y) / ((alpha * SPREAD) ** 2 + sigma**2)


class ReverseVelocityODE:
    """dy/dt = v of the linear path."""

    def velocity_fn(self, y: np.ndarray, t: np.ndarray) -> np.ndarray:
        variance = ((1 - t) * SPREAD) ** 2 + t**2
        return -MEAN + (t - (1 - t) * SPREAD**2) / variance * (y - (1 - t) * MEAN)


def exact_end(y: np.ndarray, alpha: np.ndarray | float, sigma: np.ndarray | float) -> np.ndarray:
    """y_0 of the probability flow through y."""
    return MEAN + SPREAD * (y - alpha * MEAN) / np.sqrt((alpha * SPREAD) ** 2 + sigma**2)


@pytest.mark.parametrize("sde", [VPSDE(), SubVPSDE(), VESDE()])
@pytest.mark.parametrize("shape", [(6, 2), (3, 4, 2)])
def test_a_run_of_an_sde_ends_on_the_flows_solution(sde: Forward, shape: tuple[int, ...], seed: int) -> None:
    rng, reverse = np.random.default_rng(seed), Reversed(sde)
    alpha, sigma = sde.alpha_sigma(np.ones(1))
    y = sigma * rng.normal(size=shape)
    found = Solver(reverse, n_steps=60).integrate(y, 0.0, 1 - LEAST_TIME)
    assert isinstance(found, np.ndarray)
    assert reverse.calls == 60
    np.testing.assert_allclose(found, exact_end(y, alpha, sigma), atol=5e-3)


def test_a_run_of_a_velocity_ends_on_its_solution_and_ddim_is_euler(seed: int) -> None:
    y, reverse = np.random.default_rng(seed).normal(size=(6, 2)), ReverseVelocityODE()
    np.testing.assert_allclose(Solver(reverse, 60).integrate(y, 0.0, 1.0), exact_end(y, 0.0, 1.0), atol=5e-3)
    ddim = type("Ddim", (Solver,), {"plan": "ddim"})
    by_euler = y
    for t in np.arange(10, 0, -1) / 10:
        by_euler = by_euler - 0.1 * reverse.velocity_fn(by_euler, np.full((6, 1), t))
    np.testing.assert_allclose(ddim(reverse, 10).integrate(y, 0.0, 1.0), by_euler, atol=1e-12)


def test_what_cannot_be_served_is_a_value_error() -> None:
    noisy = ReverseVelocityODE()
    noisy.stochasticity_schedule = None  # type: ignore[attr-defined]
    for reverse, words in (
        (noisy, "velocity_stochasticity: expected 0"),
        (object(), "sde: expected a reversed SDE"),
    ):
        with pytest.raises(ValueError, match=words):
            Solver(reverse, 8).integrate(np.zeros((2, 2)), 0.0, 1.0)
    fitted = type("Fitted", (Solver,), {"plan": fd.plan(None, fd.Schedule.flow(), 8)})
    with pytest.raises(ValueError, match="n_steps: expected 8, the plan's evaluations, got 5"):
        fitted(ReverseVelocityODE(), 5).integrate(np.zeros((2, 2)), 0.0, 1.0)


@pytest.mark.hosts
def test_diffgbm_itself_draws_by_it(seed: int) -> None:
    """The method is found by its name, and the ends of its own Heun method are met."""
    base = pytest.importorskip("diffgbm.sde")
    sdes = pytest.importorskip("diffgbm.sde.diffusion_sdes")
    y = np.random.default_rng(seed).normal(size=(5, 2))
    for sde, ours in ((sdes.VPSDE(), VPSDE()), (sdes.VESDE(), VESDE())):
        start = y * ours.alpha_sigma(np.ones(1))[1]
        ends = [
            base.sdeint(sde, start, 1.0, LEAST_TIME, method, steps, Reversed(ours).score_fn, pf_ode=True)
            for method, steps in (("fastdiff", 60), ("heun", 2000))
        ]
        np.testing.assert_allclose(*ends, atol=0.02)
