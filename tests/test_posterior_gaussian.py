"""Given an observation of Gaussian data, runs draw the known posterior, at their solver's order."""

from __future__ import annotations

import pytest
import torch
from linear_gaussian import (
    COVARIANCE,
    MATRICES,
    NOISE,
    PRIOR,
    SCHEDULE,
    SIZE,
    Law,
    drawn,
    measurement,
    model,
    posterior,
)

import fastdiff as fd

EYE = torch.eye(SIZE, dtype=torch.float64)
# As many iterations as there are measurements solve for the gain exactly: 8 of the mask and of pooling.
EXACT = {"moment": fd.posterior.Moment(8), "gaussian": fd.posterior.GaussianPrior(PRIOR, 8)}
FINER = {"moment": fd.posterior.Moment(4, PRIOR), "gaussian": fd.posterior.GaussianPrior(PRIOR, 40)}  # 32 of the blur


def plan(steps: int, solver: str = "dpm_solver_2m", **options: object) -> fd.Plan:
    return fd.plan(solver, SCHEDULE, steps, grid="karras", prediction="sample", **options)


@pytest.mark.parametrize(("seen", "most"), [("mask", 0.0030), ("pooling", 0.0030), ("blur", 0.0020)])
@pytest.mark.parametrize("correction", EXACT)
def test_twenty_steps_draw_the_posterior(seen, most, correction):
    correction = (FINER if seen == "blur" else EXACT)[correction]
    y = measurement(MATRICES[seen])
    obs = fd.Observation(MATRICES[seen], y, noise=NOISE)
    law = drawn(plan(20), observation=obs, correction=correction)
    assert law.distance(posterior(MATRICES[seen], y)) < most


@pytest.mark.parametrize(("solver", "order"), [("ddim", 1), ("dpm_solver_2m", 2), ("dpmpp_2m", 2), ("dpmpp_2s", 2)])
def test_the_error_falls_with_the_solvers_order(solver, order):
    obs = fd.Observation(MATRICES["pooling"], measurement(MATRICES["pooling"]), noise=NOISE)

    def law(steps: int) -> Law:
        return drawn(plan(steps, solver), observation=obs, correction=EXACT["gaussian"])

    limit = law(640)
    errors = [law(steps).distance(limit) for steps in (40, 80)]
    assert errors[0] / errors[1] > 2 ** (order - 0.25)


@pytest.mark.parametrize("correction", EXACT.values(), ids=EXACT)
def test_the_schedule_and_the_prediction_do_not_matter(correction):
    schedule, A = fd.Schedule.vp(), MATRICES["mask"]
    y = measurement(A)
    obs = fd.Observation(A, y, noise=NOISE)

    def eps(x, t):
        point = schedule.at(t[0].item())
        alpha, sigma = float(point.alpha), float(point.sigma)
        return (x - alpha * model(x / alpha, torch.full_like(t, sigma / alpha))) / sigma

    vp = fd.plan("dpm_solver_2m", schedule, 40, grid="logsnr")
    start = torch.cat([torch.zeros(1, SIZE, dtype=torch.float64), EYE])
    x = fd.sample(eps, vp, start, observation=obs, correction=correction)
    law = Law(x[0], (x[1:] - x[0]).T @ (x[1:] - x[0]))
    assert law.distance(posterior(A, y)) < 0.02


@pytest.mark.parametrize("correction", EXACT.values(), ids=EXACT)
def test_flow_models_start_where_alpha_is_zero(correction):
    schedule, A = fd.Schedule.flow(), MATRICES["mask"]
    y = measurement(A)
    exact = correction if correction is EXACT["gaussian"] else fd.posterior.Moment(8, PRIOR)

    def velocity(x, t):
        t0 = t[0].item()
        x0 = model(x / (1 - t0), torch.full_like(t, t0 / (1 - t0))) if t0 < 1 else torch.zeros_like(x)
        return (x - x0) / t0

    start = torch.cat([torch.zeros(1, SIZE, dtype=torch.float64), EYE])
    obs = fd.Observation(A, y, noise=NOISE)
    flow = fd.plan("dpm_solver_2m", schedule, 40, grid="logsnr")
    x = fd.sample(velocity, flow, start, observation=obs, correction=exact)
    law = Law(x[0], (x[1:] - x[0]).T @ (x[1:] - x[0]))
    assert law.distance(posterior(A, y)) < 0.02


def test_nothing_seen_leaves_the_prior():
    nothing = torch.zeros(3, SIZE, dtype=torch.float64)
    obs = fd.Observation(nothing, torch.ones(1, 3, dtype=torch.float64), noise=1.0)
    for correction in EXACT.values():
        law = drawn(plan(20), observation=obs, correction=correction)
        assert torch.allclose(law.covariance, drawn(plan(20)).covariance, atol=1e-12)


def test_everything_seen_is_denoising():
    y = measurement(EYE)
    for noise in (0.001, NOISE, 10.0):
        obs = fd.Observation(EYE, y, noise=noise)
        law = drawn(plan(40), observation=obs, correction=FINER["gaussian"])
        assert law.distance(posterior(EYE, y, noise)) < 0.004


def test_nearly_exact_measurements_are_interpolated():
    A = MATRICES["mask"]
    obs = fd.Observation(A, measurement(A), noise=1e-4)
    law = drawn(plan(40), observation=obs, correction=fd.posterior.GaussianPrior(PRIOR, 40))
    assert torch.allclose(A @ law.mean, measurement(A)[0], atol=1e-3)
    assert float((A @ law.covariance @ A.T).diagonal().max()) < 1e-5


def test_each_gain_is_its_formula():
    """At one evaluation of data of independent elements, where C = s^2 d^2 / (s^2 + d^2) is a number."""
    d, s, A = 0.7, 1.3, MATRICES["pooling"]
    y, x = measurement(A), torch.linspace(-1, 1, SIZE, dtype=torch.float64)[None]
    prior = fd.GaussianStart.from_covariance(torch.zeros(SIZE, dtype=torch.float64), d**2 * EYE, SCHEDULE)
    one = fd.plan("ddim", SCHEDULE, sigmas=[s, 0.0], prediction="sample")
    shrink = d**2 / (d**2 + s**2)

    def corrected(correction: object, **options: object) -> torch.Tensor:
        obs = fd.Observation(A, y, noise=NOISE, **options)
        return fd.sample(lambda x, t: shrink * x, one, x / s, observation=obs, correction=correction)

    def gain(variance: float, noise: float = NOISE) -> torch.Tensor:
        inner = variance * A @ A.T + noise**2 * torch.eye(len(A), dtype=torch.float64)
        return shrink * x + variance * (y - shrink * x @ A.T) @ torch.linalg.inv(inner).T @ A

    c = s**2 * shrink
    expected = {
        "moment": (fd.posterior.Moment(8), gain(c)),
        "gaussian": (fd.posterior.GaussianPrior(prior), gain(c)),
        "PiGDM without J": (fd.posterior.Proximal(spread=d, iterations=9), gain(c)),
        "DiffPIR": (fd.posterior.Proximal(3.0, iterations=9), gain(s**2 / 3)),
        "DDS": (fd.posterior.Proximal(ratio=5.0, iterations=9), gain(NOISE**2 / 5)),
        "SDA": (
            fd.posterior.Gradient(0.2),
            shrink * x + c * (y - shrink * x @ A.T) / (NOISE**2 + 0.2 * s**2) @ A,
        ),
        "DDNM": (fd.posterior.Pseudoinverse(), gain(1.0, 1e-9)),
    }
    for name, (correction, value) in expected.items():
        if name == "SDA":
            with pytest.warns(UserWarning, match="overshoot"):
                found = corrected(correction)
        else:
            found = corrected(correction)
        assert torch.allclose(found, value, atol=1e-6), name


def test_pseudoinverse_leaves_room_for_the_measurements_noise():
    """DDNM+ (eq. 19): what the row draws and what y brings make up the row's variance, or y is scaled down."""
    noise = 0.3
    ancestral = plan(12, "ddim", eta=1.0)
    obs = fd.Observation(EYE, torch.zeros(1, SIZE, dtype=torch.float64), noise=noise)
    quieter = obs.correction("pseudoinverse").plan(ancestral)
    for row, other in zip(ancestral.rows, quieter.rows, strict=True):
        drawn_before = sum(w**2 for _, w in row.x.noise)
        left = sum(w**2 for _, w in other.x.noise)
        weight = row.x.history[0] * row.p_m
        share = min(1.0, drawn_before**0.5 / (weight * noise))
        assert left + (weight * share * noise) ** 2 == pytest.approx(drawn_before)


def test_the_residual_tells_a_fit_from_a_misfit():
    """The mean square of (y - A x0) / noise over posterior draws is 1 for the noise there is."""
    A = MATRICES["mask"]
    gain = COVARIANCE @ A.T @ torch.linalg.inv(A @ COVARIANCE @ A.T + NOISE**2 * torch.eye(len(A), dtype=torch.float64))
    # y is its noise and A x0; posterior draws differ from x0 by twice the posterior's spread, independent of y.
    y = torch.linalg.cholesky(A @ COVARIANCE @ A.T + NOISE**2 * torch.eye(len(A), dtype=torch.float64)).T
    mean = y @ gain.T
    law = COVARIANCE - gain @ A @ COVARIANCE
    square = (y - mean @ A.T).square().sum() + (A @ law @ A.T).trace()
    assert float(square) / NOISE**2 / len(A) == pytest.approx(1.0)
    obs = fd.Observation(A, y, noise=NOISE)
    assert torch.allclose(obs.misfit(mean), ((y - mean @ A.T) / NOISE).square().mean(1))
    steps = list(fd.iter_sample(model, plan(8), torch.zeros(len(y), SIZE, dtype=torch.float64), observation=obs))
    assert torch.allclose(steps[-1].residual, obs.misfit(steps[-1].x0))
