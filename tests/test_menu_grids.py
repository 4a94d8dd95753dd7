"""ComfyUI's grids: their definitions on every kind of schedule, and its own functions on its own models."""

from __future__ import annotations

import math
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

import fastdiff as fd
from fastdiff import kdiffusion
from fastdiff.plans.grid import make_grid
from fastdiff.plans.incomplete_beta import incomplete_beta
from fastdiff.plans.menu_grids import MENU_GRIDS

SHIFT = 3.0
SCHEDULES = {
    "discrete": fd.Schedule.scaled_linear(),
    "flow": fd.Schedule.flow(SHIFT),
    "edm": fd.Schedule.edm(0.002, 120.0),
    "vp": fd.Schedule.vp(),
    "zero snr": fd.Schedule.scaled_linear().zero_terminal_snr(),
}
UNEVEN = ("ddim_uniform", "beta", "beta57", "laplace", "simple")
COUNTS = (1, 2, 3, 7, 20, 40)
each_schedule = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)


def shifted(t, shift=SHIFT):
    return shift * t / (1 + (shift - 1) * t)


def levels(schedule, steps, grid, **options):
    """The grid's noisy levels, as ComfyUI counts them."""
    points = make_grid(schedule, steps, grid, **options)
    return schedule.coordinate(points)[:-1]


@each_schedule
@pytest.mark.parametrize("grid", MENU_GRIDS)
def test_noise_falls_from_the_schedules_to_clean_data(grid, schedule):
    for steps in COUNTS:
        points = make_grid(schedule, steps, grid)
        assert (points.alpha[-1], points.sigma[-1]) == (1, 0)
        assert np.all(np.diff(points.log_snr) > 0)
        assert len(points.t) == steps + 1 or grid in UNEVEN
        if grid not in ("ddim_uniform", "laplace"):
            assert points.t[0] == schedule.t_max


@settings(deadline=None, max_examples=80)
@given(
    st.sampled_from(list(SCHEDULES.values())), st.sampled_from(MENU_GRIDS), st.integers(1, 1200),
    st.sampled_from(["zero", "sigma_min"]),
)  # fmt: skip
def test_no_number_of_steps_leaves_the_schedule(schedule, grid, steps, final_sigma):
    if grid == "linear_quadratic":
        steps = min(steps, 60)  # more would go below the least level, see below
    points = make_grid(schedule, steps, grid, final_sigma=final_sigma)
    asked = points.at(slice(-1)) if final_sigma == "zero" else points
    assert np.all((asked.t >= schedule.t_min * (1 - 1e-9)) & (asked.t <= schedule.t_max))


def test_simple_takes_training_levels_at_equal_distances():
    schedule = SCHEDULES["discrete"]
    np.testing.assert_array_equal(make_grid(schedule, 7, "simple").t[:-1], [999 - int(k * 1000 / 7) for k in range(7)])
    flow = [shifted(1 - int(k * 1000 / 7) / 1000) for k in range(7)]
    np.testing.assert_allclose(levels(SCHEDULES["flow"], 7, "simple"), flow, rtol=1e-13)


def test_ddim_uniform_takes_every_kth_level_from_the_second_up():
    np.testing.assert_array_equal(make_grid(SCHEDULES["discrete"], 4, "ddim_uniform").t[:-1], [751, 501, 251, 1])
    more = make_grid(SCHEDULES["discrete"], 30, "ddim_uniform")  # 1000 // 30 = 33: one more than asked for
    assert len(more.t) - 1 == 31
    assert fd.plan("euler", SCHEDULES["discrete"], 30, grid="ddim_uniform").nfe == 31


def test_normal_and_sgm_uniform_are_uniform_in_the_models_time():
    edm = SCHEDULES["edm"]
    np.testing.assert_allclose(levels(edm, 9, "normal"), np.geomspace(120, 0.002, 9), rtol=1e-12)
    np.testing.assert_allclose(levels(edm, 9, "sgm_uniform"), np.geomspace(120, 0.002, 10)[:-1], rtol=1e-12)
    least = shifted(1e-3)  # what the host takes for the model's time there
    flow = shifted(np.linspace(1, least, 9))
    np.testing.assert_allclose(levels(SCHEDULES["flow"], 9, "normal"), flow, rtol=1e-12)
    np.testing.assert_array_equal(make_grid(SCHEDULES["discrete"], 4, "normal").t[[0, -2]], [999, 0])
    almost_clean = fd.Schedule.flow(t_min=1e-6)
    np.testing.assert_allclose(levels(almost_clean, 4, "normal"), np.linspace(1, 1e-6, 5)[:-1], rtol=1e-12)


@pytest.mark.parametrize(("grid", "a", "b"), [("beta", 0.6, 0.6), ("beta57", 0.5, 0.7)])
def test_beta_takes_the_levels_at_a_beta_distributions_quantiles(grid, a, b):
    for steps in (*COUNTS, 150):
        places = np.rint(stats.beta.ppf(1 - np.linspace(0, 1, steps, endpoint=False), a, b) * 999)
        places = places[np.append(True, np.diff(places) < 0)]
        np.testing.assert_array_equal(make_grid(SCHEDULES["discrete"], steps, grid).t[:-1], places)


@pytest.mark.parametrize(("a", "b"), [(0.6, 0.6), (0.5, 0.7), (0.2, 4.0), (8.0, 3.0)])
def test_the_beta_distributions_function_is_scipys(a, b):
    x = np.array([1e-6, 0.5, 1 - 1e-6, *np.random.uniform(size=200)])
    np.testing.assert_allclose(incomplete_beta(x, a, b), stats.beta.cdf(x, a, b), rtol=1e-11)
    with pytest.raises(ValueError, match="a, b: expected numbers > 0"):
        incomplete_beta(x, 0.0, b)


def test_kl_optimal_is_uniform_in_the_angle_and_lets_the_first_level_be_infinite():
    angles = np.arctan(levels(SCHEDULES["edm"], 11, "kl_optimal"))
    np.testing.assert_allclose(np.diff(angles), np.diff(angles)[0], rtol=1e-9)
    zero_snr = make_grid(SCHEDULES["zero snr"], 4, "kl_optimal")
    assert zero_snr.alpha[0] == 0
    assert np.arctan(zero_snr.sigma / zero_snr.alpha.clip(1e-300))[1] == pytest.approx(math.pi / 3, rel=0.01)


def test_linear_quadratic_has_one_slope_where_its_parts_meet():
    share = 1 - levels(SCHEDULES["flow"], 20, "linear_quadratic")
    np.testing.assert_allclose(np.diff(share[:11]), 0.0025, rtol=1e-9)
    rest = np.append(share[10:], 1.0)
    np.testing.assert_allclose(np.diff(rest, 3), 0, atol=1e-12)  # quadratic
    slope_at_the_start = (-3 * rest[0] + 4 * rest[1] - rest[2]) / 2
    assert slope_at_the_start == pytest.approx(0.0025, rel=1e-9)
    with pytest.raises(ValueError, match="grid: expected levels within"):
        make_grid(fd.Schedule.edm(0.9, 1.0), 40, "linear_quadratic")


def test_laplace_is_held_within_the_schedule_and_polyexponential_takes_rho():
    inside = levels(SCHEDULES["edm"], 11, "laplace")
    np.testing.assert_allclose(inside[[0, 5, 10]], [120, 1, 0.5 * 1e5**-0.5 * 2], rtol=1e-4)
    u = np.linspace(1, 0, 5) ** 3
    expected = np.exp(u * math.log(120) + (1 - u) * math.log(0.002))
    np.testing.assert_allclose(levels(SCHEDULES["edm"], 5, "polyexponential", rho=3.0), expected, rtol=1e-12)
    uniform = levels(SCHEDULES["edm"], 5, "polyexponential")
    np.testing.assert_allclose(uniform, levels(SCHEDULES["edm"], 5, "exponential"), rtol=1e-12)


def test_a_name_may_bring_its_grid():
    assert fd.plan("DPM++ 2M SGM Uniform", SCHEDULES["discrete"], 8).grid == "sgm_uniform"
    assert fd.plan("DPM++ 2M SDE Beta", SCHEDULES["discrete"], 8).grid == "beta"


def test_gits_belongs_to_a_model():
    with pytest.raises(ValueError, match=r"grid: 'gits' is fitted to a model; fastdiff\.fit finds it"):
        fd.plan("euler", SCHEDULES["edm"], 8, grid="gits")


# The functions of the host's signatures, on models of its protocol.


def discrete_host():
    sigmas = torch.tensor(SCHEDULES["discrete"].coordinate(SCHEDULES["discrete"].at(np.arange(1000.0)))).float()
    logs = sigmas.log()

    def sigma(t):
        t = t.float().clamp(0, 999)
        low, high = t.floor().long(), t.ceil().long()
        return ((1 - t.frac()) * logs[low] + t.frac() * logs[high]).exp()

    return _host(sigmas, lambda s: (s.log() - logs).abs().argmin(), sigma)


def flow_host():
    sigmas = torch.tensor(shifted(np.arange(1, 1001) / 1000)).float()
    return _host(sigmas, lambda s: s * 1000, lambda t: shifted(t / 1000))


def edm_host():
    sigmas = torch.linspace(math.log(0.002), math.log(120), 1000).exp()
    return _host(sigmas, lambda s: 0.25 * s.log(), lambda t: (t / 0.25).exp())


def _host(sigmas, timestep, sigma):
    return SimpleNamespace(sigmas=sigmas, sigma_min=sigmas[0], sigma_max=sigmas[-1], timestep=timestep, sigma=sigma)


HOSTS = {"discrete": discrete_host(), "flow": flow_host(), "edm": edm_host()}
FUNCTIONS = {
    "simple": kdiffusion.simple_scheduler,
    "ddim_uniform": kdiffusion.ddim_scheduler,
    "normal": kdiffusion.normal_scheduler,
    "sgm_uniform": partial(kdiffusion.normal_scheduler, sgm=True),
    "beta": kdiffusion.beta_scheduler,
    "beta57": partial(kdiffusion.beta_scheduler, alpha=0.5, beta=0.7),
    "linear_quadratic": kdiffusion.linear_quadratic_schedule,
    "kl_optimal": lambda m, n: kdiffusion.kl_optimal_scheduler(n, float(m.sigma_min), float(m.sigma_max)),
}


@pytest.mark.parametrize("name", HOSTS)
@pytest.mark.parametrize("grid", FUNCTIONS)
def test_a_hosts_model_and_its_schedule_have_the_same_grid(grid, name):
    """The functions read the host's tables, in float32; the names know the schedule."""
    for steps in COUNTS:
        host = FUNCTIONS[grid](HOSTS[name], steps)
        assert (host.dtype, float(host[-1])) == (torch.float32, 0.0)
        np.testing.assert_allclose(host[:-1], levels(SCHEDULES[name], steps, grid), rtol=5e-6)


def test_tables_that_reach_clean_data_end_on_their_own_last_level():
    sigmas = torch.linspace(1e-7, 1, 1000) ** 2
    host = _host(sigmas, lambda s: s.sqrt() * 1000, lambda t: (t / 1000) ** 2)
    assert len(kdiffusion.normal_scheduler(host, 5)) == 6
    assert float(kdiffusion.normal_scheduler(host, 5)[-1]) < 1e-5
    assert float(kdiffusion.ddim_scheduler(host, 5)[-1]) == float(sigmas[1])


def test_align_your_steps_ends_at_the_models_least_level_before_zero():
    for model, grid in (("SD1", "ays:sd15"), ("SDXL", "ays:sdxl")):
        ten = kdiffusion.align_your_steps_scheduler(model, 10)
        np.testing.assert_allclose(ten[:-1], levels(SCHEDULES["discrete"], 10, grid), rtol=1e-6)
    twenty = kdiffusion.align_your_steps_scheduler("SVD", 20)
    np.testing.assert_allclose(twenty[:3], [700, (700 * 54.5) ** 0.5, 54.5], rtol=1e-6)
    assert float(twenty[-2]) == pytest.approx((0.034 * 0.002) ** 0.5, rel=1e-6)
    assert torch.equal(kdiffusion.align_your_steps_scheduler("SD1", 10, 0.5), ten_of("SD1")[-6:])
    assert len(kdiffusion.align_your_steps_scheduler("SD1", 10, 0.0)) == 0
    with pytest.raises(ValueError, match="model_type: expected one of SD1, SDXL, SVD, got 'SD3'"):
        kdiffusion.align_your_steps_scheduler("SD3", 10)


def ten_of(model):
    return kdiffusion.align_your_steps_scheduler(model, 10)


def test_steps_are_whole_numbers_above_zero():
    for function in FUNCTIONS.values():
        with pytest.raises(ValueError, match="steps: expected a whole number >= 1, got 0"):
            function(HOSTS["discrete"], 0)
    with pytest.raises(ValueError, match="linear_steps: expected a whole number from 1 to 4"):
        kdiffusion.linear_quadratic_schedule(HOSTS["flow"], 5, linear_steps=5)


@pytest.mark.parametrize("form", ["eps", "flow", "edm"])
@pytest.mark.parametrize("grid", ["simple", "sgm_uniform", "ddim_uniform", "beta", "normal", "linear_quadratic", "kl_optimal"])  # fmt: skip # noqa: E501
def test_comfyuis_schedulers_give_the_same(grid, form, comfyui):
    from bench.comfy_host import Host

    host = Host.load()
    bases = (host.model_sampling.ModelSamplingContinuousEDM, host.model_sampling.EDM)
    sampling = type("Sampling", bases, {})() if form == "edm" else host.form(form)
    for steps in (*range(2 if grid == "kl_optimal" else 1, 40), 137, 400):
        theirs = host.samplers.calculate_sigmas(sampling, grid, steps)
        torch.testing.assert_close(FUNCTIONS[grid](sampling, steps), theirs, rtol=2e-5, atol=0)


def test_comfyuis_align_your_steps_gives_the_same(comfyui):
    node = pytest.importorskip("comfy_extras.nodes_align_your_steps").AlignYourStepsScheduler
    for model in ("SD1", "SDXL", "SVD"):
        for steps, denoise in ((1, 1.0), (10, 1.0), (23, 1.0), (20, 0.5)):
            theirs = node.execute(model, steps, denoise).result[0]
            ours = kdiffusion.align_your_steps_scheduler(model, steps, denoise)
            torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=0)
