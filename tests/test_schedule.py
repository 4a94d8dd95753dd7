"""Schedules: alpha, sigma, lambda and the inverse, against their definitions and diffusers' tables."""

import math

import diffusers
import numpy as np
import pytest
from diffusers.schedulers.scheduling_ddim import rescale_zero_terminal_snr

import fastdiff as fd

BETAS = np.linspace(0.01, 0.3, 20)
SCHEDULES = {
    "from_betas": fd.Schedule.from_betas(BETAS),
    "from_alphas_cumprod": fd.Schedule.from_alphas_cumprod(np.linspace(0.99, 0.01, 30)),
    "linear": fd.Schedule.linear(),
    "scaled_linear": fd.Schedule.scaled_linear(),
    "cosine": fd.Schedule.cosine(),
    "continuous cosine": fd.Schedule.cosine(None),
    "vp": fd.Schedule.vp(),
    "trigflow": fd.Schedule.trigflow(),
    "zero terminal snr": fd.Schedule.scaled_linear().zero_terminal_snr(),
    "edm": fd.Schedule.edm(),
    "flow": fd.Schedule.flow(),
    "shifted flow": fd.Schedule.flow(3.0),
    "flux": fd.Schedule.flow(tokens=1024),
}
each_schedule = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)


def inner_times(schedule: fd.Schedule, count: int = 41) -> np.ndarray:
    return np.linspace(schedule.t_min, schedule.t_max, count)[1:-1] * (1 - 1e-9)


@each_schedule
def test_log_snr_is_log_alpha_over_sigma_and_falls(schedule):
    t = inner_times(schedule)
    np.testing.assert_allclose(schedule.log_snr(t), np.log(schedule.alpha(t) / schedule.sigma(t)), rtol=0, atol=1e-12)
    assert np.all(np.diff(schedule.log_snr(t)) < 0)


@each_schedule
def test_time_of_log_snr_is_the_inverse(schedule):
    t = inner_times(schedule)
    np.testing.assert_allclose(schedule.t_of_log_snr(schedule.log_snr(t)), t, rtol=1e-10, atol=1e-10)


@each_schedule
def test_point_of_a_log_snr_has_it_and_its_time_has_the_same_alpha_and_sigma(schedule):
    log_snr = schedule.log_snr(inner_times(schedule))
    points = schedule.at_log_snr(log_snr)
    np.testing.assert_allclose(points.log_snr, log_snr, rtol=0, atol=1e-12)
    np.testing.assert_allclose(points.alpha, schedule.alpha(points.t), rtol=1e-10)
    np.testing.assert_allclose(points.sigma, schedule.sigma(points.t), rtol=1e-10)


@each_schedule
@pytest.mark.parametrize("which", ["sigma", "flow", None])
def test_coordinate_is_a_ratio_of_noise_and_is_inverted(schedule, which):
    points = schedule.at(inner_times(schedule))
    level = schedule.coordinate(points, which)
    bounded = which == "flow" or (which is None and schedule.kind == "flow")
    total = points.alpha + points.sigma if bounded else points.alpha
    np.testing.assert_allclose(level, points.sigma / total, rtol=1e-15)
    back = schedule.at_coordinate(level, which)
    np.testing.assert_allclose(back.alpha, points.alpha, rtol=1e-10)
    np.testing.assert_allclose(back.sigma, points.sigma, rtol=1e-10)


@each_schedule
def test_alpha_and_sigma_fit_the_kind(schedule):
    t = inner_times(schedule)
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    expected = {"vp": alpha**2 + sigma**2, "ve": alpha, "flow": alpha + sigma}[schedule.kind]
    np.testing.assert_allclose(expected, 1, rtol=1e-12)
    assert (schedule.alpha(schedule.t_clean), schedule.sigma(schedule.t_clean)) == (1, 0)


@pytest.mark.parametrize(
    ("ours", "peer"),
    [
        (fd.Schedule.linear(), {"beta_schedule": "linear"}),
        (fd.Schedule.linear(0.001, 0.01, 50), {"beta_start": 0.001, "beta_end": 0.01, "num_train_timesteps": 50}),
        (fd.Schedule.scaled_linear(), {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}),
        (fd.Schedule.cosine(), {"beta_schedule": "squaredcos_cap_v2"}),
        (fd.Schedule.cosine(100), {"beta_schedule": "squaredcos_cap_v2", "num_train_timesteps": 100}),
    ],
)
def test_discrete_tables_equal_diffusers(ours, peer):
    table = diffusers.DDIMScheduler(**peer).alphas_cumprod.double().numpy()
    assert ours.num_train_timesteps == len(table)
    assert ours.t_max == len(table) - 1
    # Their cumulative product runs in float32: relative errors add up, below 1000 times 6e-8.
    np.testing.assert_allclose(ours.alpha(np.arange(len(table))) ** 2, table, rtol=2e-5)
    np.testing.assert_allclose(ours.alphas_cumprod, table, rtol=2e-5)


def test_from_betas_is_the_product_of_one_minus_beta():
    expected = [math.prod(1 - b for b in BETAS[: i + 1]) for i in range(20)]
    np.testing.assert_allclose(fd.Schedule.from_betas(BETAS).alpha(np.arange(20)) ** 2, expected, rtol=1e-13)


def test_between_indices_log_alpha_is_linear():
    schedule = SCHEDULES["from_betas"]
    expected = 0.75 * np.log(schedule.alpha(4)) + 0.25 * np.log(schedule.alpha(5))
    assert np.log(schedule.alpha(4.25)) == pytest.approx(expected, rel=1e-13)


def test_continuous_schedules_are_their_formulas():
    t = np.linspace(0.01, 0.99, 9)
    vp = fd.Schedule.vp(0.2, 15.0)
    np.testing.assert_allclose(vp.alpha(t), np.exp(-0.25 * t**2 * 14.8 - 0.5 * t * 0.2), rtol=1e-14)
    angle = (t + 0.008) / 1.008 * np.pi / 2
    expected = np.cos(angle) / np.cos(0.008 / 1.008 * np.pi / 2)
    np.testing.assert_allclose(fd.Schedule.cosine(None).alpha(t), expected, rtol=1e-13)
    assert (fd.Schedule.cosine(None).alpha(1.0), fd.Schedule.cosine(None).sigma(1.0)) == (0, 1)
    np.testing.assert_allclose(fd.Schedule.trigflow().alpha(t), np.cos(t), rtol=1e-13)
    assert (fd.Schedule.trigflow().alpha(np.pi / 2), fd.Schedule.trigflow().sigma(np.pi / 2)) == (0, 1)
    assert (fd.Schedule.edm().alpha(7.0), fd.Schedule.edm().sigma(7.0)) == (1, 7)
    assert (fd.Schedule.flow().alpha(0.25), fd.Schedule.flow().sigma(0.25)) == (0.75, 0.25)


def test_zero_terminal_snr_ends_at_alpha_0_and_equals_diffusers_rescaling():
    plain = fd.Schedule.scaled_linear()
    schedule = plain.zero_terminal_snr()
    assert schedule.alpha(999) == 0
    assert schedule.sigma(999) == 1
    assert schedule.log_snr(999) == -np.inf
    assert schedule.t_of_log_snr(-np.inf) == 999
    peer = diffusers.DDIMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
    betas = rescale_zero_terminal_snr(peer.betas.double())
    roots = np.sqrt(np.cumprod(1 - betas.numpy()))
    # Their betas are made in float32.
    np.testing.assert_allclose(np.sqrt(schedule.alphas_cumprod), roots, rtol=2e-5, atol=1e-8)
    root = np.sqrt(plain.alphas_cumprod)
    expected = (root - root[-1]) * root[0] / (root[0] - root[-1])
    np.testing.assert_allclose(np.sqrt(schedule.alphas_cumprod), expected, rtol=1e-12)
    assert schedule.alpha(998.5) == pytest.approx(0.5 * schedule.alpha(998), rel=1e-12)


@pytest.mark.parametrize("tokens", [256, 1024, 4096])
def test_flow_shift_is_diffusers_and_tokens_give_flux_its_mu(tokens):
    t = np.linspace(0.02, 1, 50)
    peer = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    peer.set_timesteps(sigmas=t[::-1].tolist())
    np.testing.assert_allclose(fd.Schedule.flow(3.0).shift_time(t[::-1]), peer.sigmas[:-1].numpy(), rtol=1e-6)
    mu = 0.5 + (1.15 - 0.5) * (tokens - 256) / (4096 - 256)
    flux = diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    np.testing.assert_allclose(fd.Schedule.flow(tokens=tokens).shift_time(t), flux.time_shift(mu, 1.0, t), rtol=1e-12)
    assert fd.Schedule.flow(3.0).unshift_time(float(fd.Schedule.flow(3.0).shift_time(0.3))) == pytest.approx(
        0.3, rel=1e-14
    )


def test_scale_of_the_first_noise():
    assert SCHEDULES["edm"].init_scale == 80
    assert SCHEDULES["flow"].init_scale == 1
    assert SCHEDULES["zero terminal snr"].init_scale == 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: fd.Schedule.from_betas([0.1]), "betas: expected a sequence of at least two numbers"),
        (lambda: fd.Schedule.from_betas([0.1, math.nan, 0.2]), "betas"),
        (lambda: fd.Schedule.from_betas([0.1, -0.2]), "betas"),
        (lambda: fd.Schedule.from_betas([[0.1, 0.2], [0.3, 0.4]]), "betas"),
        (lambda: fd.Schedule.from_betas([0.1, 1.0, 0.2]), "alphas_cumprod"),
        (lambda: fd.Schedule.from_alphas_cumprod([0.5, 0.6]), "alphas_cumprod: expected a falling sequence"),
        (lambda: fd.Schedule.from_alphas_cumprod([1.0, 0.6]), "alphas_cumprod"),
        (lambda: fd.Schedule.from_alphas_cumprod([0.5, -0.1]), "alphas_cumprod"),
        (lambda: fd.Schedule.vp(20.0, 0.1), "beta_min, beta_max: expected"),
        (lambda: fd.Schedule.vp(t_min=0.0), "t_min: expected"),
        (lambda: fd.Schedule.cosine(offset=-1.0), "offset: expected"),
        (lambda: fd.Schedule.trigflow(t_min=2.0), "t_min: expected"),
        (lambda: fd.Schedule.edm(0.0, 80.0), "sigma_min, sigma_max: expected"),
        (lambda: fd.Schedule.edm(1.0, math.inf), "sigma_min, sigma_max: expected"),
        (lambda: fd.Schedule.edm(math.nan, 80.0), "sigma_min, sigma_max: expected"),
        (lambda: fd.Schedule.flow(-1.0), "shift, t_min: expected"),
        (lambda: fd.Schedule.flow(t_min=1.0), "shift, t_min: expected"),
        (lambda: fd.Schedule.edm().zero_terminal_snr(), "zero_terminal_snr: expected a discrete"),
    ],
)
def test_bad_schedules_are_refused_by_name(make, message):
    with pytest.raises(ValueError, match=message):
        make()
