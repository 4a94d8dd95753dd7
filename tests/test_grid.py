"""Time grids against their definitions, diffusers' timesteps and tables, and what they refuse."""

import diffusers
import numpy as np
import pytest
from diffusers.schedulers import AysSchedules

import fastdiff as fd
from fastdiff.plans.grid import GRIDS, make_grid
from fastdiff.plans.menu_grids import MENU_GRIDS

SD = fd.Schedule.scaled_linear()
ZERO_SNR = SD.zero_terminal_snr()
SCHEDULES = {
    "sd": SD,
    "zero snr": ZERO_SNR,
    "cosine": fd.Schedule.cosine(),
    "continuous cosine": fd.Schedule.cosine(None),
    "vp": fd.Schedule.vp(),
    "edm": fd.Schedule.edm(),
    "flow": fd.Schedule.flow(3.0),
}
CONTINUOUS_GRIDS = ("logsnr", "time", "quadratic", "karras", "exponential")
each_schedule = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)


@each_schedule
@pytest.mark.parametrize("final_sigma", ["zero", "sigma_min"])
@pytest.mark.parametrize("grid", CONTINUOUS_GRIDS)
def test_grid_runs_from_most_noise_to_the_end_asked_for_in_that_many_steps(grid, final_sigma, schedule):
    for steps in (1, 2, 3, 7, 50):
        points = make_grid(schedule, steps, grid, final_sigma=final_sigma)
        assert len(points.t) == steps + 1
        assert (points.t[0], points.alpha[0]) == (schedule.t_max, schedule.alpha(schedule.t_max))
        assert np.all(np.diff(points.log_snr) > 0)
        assert np.all(np.diff(points.t[:-1]) < 0)
        if final_sigma == "zero":
            assert (points.alpha[-1], points.sigma[-1]) == (1, 0)
        else:
            assert points.sigma[-1] == pytest.approx(float(schedule.sigma(schedule.t_min)), rel=1e-12)


def test_time_grids_are_uniform_in_time_or_its_root():
    np.testing.assert_allclose(make_grid(SD, 4, "time").t, [999, 749, 499, 249, -1], rtol=1e-14)
    np.testing.assert_allclose(make_grid(SD, 3, "time", final_sigma="sigma_min").t, [999, 666, 333, 0], rtol=1e-14)
    np.testing.assert_allclose(make_grid(fd.Schedule.vp(), 4, "time").t, [1, 0.75, 0.5, 0.25, 0], rtol=1e-14)
    np.testing.assert_allclose(make_grid(fd.Schedule.vp(), 4, "quadratic").t, [1, 9 / 16, 1 / 4, 1 / 16, 0], rtol=1e-14)
    shifted = [3 * t / (1 + 2 * t) for t in (1, 0.75, 0.5, 0.25, 0)]
    np.testing.assert_allclose(make_grid(fd.Schedule.flow(3.0), 4, "time").t, shifted, rtol=1e-14)


@pytest.mark.parametrize("shift", [0.1, 0.3, 1.7, 3.3, 7.1])
def test_shifted_time_grid_starts_at_pure_noise_exactly(shift):
    assert make_grid(fd.Schedule.flow(shift), 5, "time").t[0] == 1


def test_logsnr_grid_is_uniform_in_lambda_between_the_schedules_ends():
    points = make_grid(fd.Schedule.edm(0.01, 100.0), 5, "logsnr")
    expected = np.linspace(-np.log(100.0), -np.log(0.01), 5)
    np.testing.assert_allclose(points.log_snr[:-1], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("rho", [7.0, 3.0, 1.0])
@pytest.mark.parametrize("name", ["edm", "sd", "flow"])
def test_karras_grid_is_equation_5_in_the_noise_level(name, rho):
    schedule = SCHEDULES[name]
    points = make_grid(schedule, 8, "karras", rho=rho)
    level = points.sigma if name == "flow" else points.sigma / points.alpha
    high, low = level[0] ** (1 / rho), level[7] ** (1 / rho)
    np.testing.assert_allclose(level[:-1], [(high + i / 7 * (low - high)) ** rho for i in range(8)], rtol=1e-10)
    assert level[7] == pytest.approx(float(schedule.coordinate(schedule.at(schedule.t_min))), rel=1e-10)


@pytest.mark.parametrize("name", ["edm", "sd", "flow"])
def test_exponential_grid_has_a_constant_ratio_of_noise_levels(name):
    points = make_grid(SCHEDULES[name], 9, "exponential")
    level = points.sigma if name == "flow" else points.sigma / points.alpha
    np.testing.assert_allclose(level[1:-1] / level[:-2], level[1] / level[0], rtol=1e-10)


PEER = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}


@pytest.mark.parametrize("n", [2, 3, 7, 10, 15, 20, 50, 60, 999, 1000])
@pytest.mark.parametrize("grid", ["linspace", "leading", "trailing"])
@pytest.mark.parametrize("kind", ["DDIM", "Euler"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_whole_index_grids_are_diffusers_timesteps(kind, grid, n):
    options = {"steps_offset": 1} if grid == "leading" and n < 1000 else {}
    peer = {"DDIM": diffusers.DDIMScheduler, "Euler": diffusers.EulerDiscreteScheduler}[kind]
    peer = peer(**PEER, timestep_spacing=grid, **options)
    peer.set_timesteps(n)
    # Euler's linspace is fractional; ours and DDIM's are the whole indices next to it.
    np.testing.assert_array_equal(make_grid(SD, n, grid, **options).t[:-1], peer.timesteps.double().round())


def test_one_step_begins_at_the_most_noise_or_where_leading_says():
    assert make_grid(SD, 1, "linspace").t[0] == 999  # diffusers begins at 0 here, on clean data
    assert make_grid(SD, 1, "trailing").t[0] == 999
    assert make_grid(SD, 1, "leading").t[0] == 0


def test_ays_tables_are_diffusers():
    for grid, table in (
        ("ays", "StableDiffusionTimesteps"), ("ays:sd15", "StableDiffusionTimesteps"),
        ("ays:sdxl", "StableDiffusionXLTimesteps"),
    ):  # fmt: skip
        np.testing.assert_allclose(make_grid(SD, 10, grid).t[:-1], AysSchedules[table], rtol=1e-12, atol=1e-8)
    edm, svd = fd.Schedule.edm(0.001, 700.0), AysSchedules["StableDiffusionVideoSigmas"]
    for grid in ("ays", "ays:svd"):
        np.testing.assert_allclose(make_grid(edm, 10, grid).sigma, svd, rtol=1e-12)


def test_ays_with_other_step_counts_is_log_linear_between_the_table():
    ten, nineteen = make_grid(SD, 10, "ays").log_snr[:-1], make_grid(SD, 19, "ays").log_snr[:-1]
    np.testing.assert_allclose(nineteen[::2], ten, rtol=1e-12)
    np.testing.assert_allclose(nineteen[1::2], (ten[1:] + ten[:-1]) / 2, rtol=1e-10)


def test_explicit_times_are_the_points_with_the_end_asked_for():
    np.testing.assert_array_equal(make_grid(SD, None, [999, 500, 20]).t, [999, 500, 20, -1])
    assert make_grid(SD, 3, [999, 500, 20]).sigma[-1] == 0
    np.testing.assert_array_equal(make_grid(SD, None, [999, 500, 20], final_sigma="sigma_min").t, [999, 500, 20])
    flow = make_grid(fd.Schedule.flow(), None, [1.0, 0.5, 0.0])
    np.testing.assert_array_equal(flow.t, [1, 0.5, 0])


@pytest.mark.parametrize("name", ["sd", "vp", "edm", "zero snr"])
def test_explicit_sigmas_are_noise_to_signal_ratios(name):
    points = make_grid(SCHEDULES[name], None, sigmas=[10.0, 3.0, 0.5, 0.0])
    np.testing.assert_allclose(points.sigma / points.alpha, [10, 3, 0.5, 0], rtol=1e-12)
    np.testing.assert_allclose(SCHEDULES[name].log_snr(points.t[:-1]), -np.log([10, 3, 0.5]), rtol=0, atol=1e-9)


def test_explicit_sigmas_of_a_flow_are_its_times():
    for levels in ([1.0, 0.4, 0.0], [0.9, 0.3, 1e-5]):
        points = make_grid(fd.Schedule.flow(3.0), None, sigmas=levels, prediction="flow_prediction")
        np.testing.assert_allclose(points.t, levels, rtol=1e-12)
        np.testing.assert_allclose(points.alpha, 1 - np.array(levels), rtol=1e-12)


def test_start_keeps_the_last_steps():
    whole = make_grid(SD, 20, "time")
    for start, kept in ((0.5, 10), (0.3, 6), (0.299, 5), (1.0, 20), (0.05, 1)):
        np.testing.assert_array_equal(make_grid(SD, 20, "time", start=start).t, whole.t[20 - kept :])


def test_log_snr_min_holds_the_start_of_grids_in_lambda():
    points = make_grid(fd.Schedule.cosine(), 10, "logsnr", log_snr_min=-3.0)
    assert points.log_snr[0] == pytest.approx(-3.0, abs=1e-12)
    np.testing.assert_allclose(np.diff(points.log_snr[:-1]), np.diff(points.log_snr)[0], rtol=1e-9)
    free = make_grid(SD, 10, "logsnr")
    np.testing.assert_array_equal(make_grid(SD, 10, "logsnr", log_snr_min=-30.0).t, free.t)


@pytest.mark.parametrize("grid", ["logsnr", "karras", "exponential"])
@pytest.mark.parametrize("name", ["zero snr", "continuous cosine"])
def test_grid_in_lambda_from_alpha_0_starts_there_and_is_even_from_the_cut_on(name, grid):
    points = make_grid(SCHEDULES[name], 8, grid)
    assert (points.alpha[0], points.sigma[0], points.t[0]) == (0, 1, SCHEDULES[name].t_max)
    assert points.log_snr[1] > -5.1  # DPM-Solver's clipping
    if grid != "karras":
        expected = np.linspace(-5.1, points.log_snr[7], 8)[1:]
        np.testing.assert_allclose(points.log_snr[1:-1], expected, rtol=1e-9)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"grid": "kerras"}, f"{', '.join(GRIDS + MENU_GRIDS)}, or an array of times, got 'kerras'"),
        ({"grid": "time:sd15"}, "grid: expected one of"),
        ({"grid": "ays:sd3"}, "grid: expected ays:sd15, ays:sdxl, ays:svd, got 'ays:sd3'"),
        ({"steps": 0}, "steps: expected a whole number >= 1, got 0"),
        ({"steps": -3}, "steps: expected"),
        ({"steps": 2.5}, "steps: expected"),
        ({"steps": None}, "steps: expected"),
        ({"grid": [999, 500, 20], "steps": 4}, "steps: the grid has 3 steps, got steps=4"),
        ({"grid": [20, 500, 999], "steps": None}, "grid: expected noise that falls strictly"),
        ({"grid": [999, 500, 500], "steps": None}, "grid: expected noise that falls strictly"),
        ({"grid": [999, float("nan"), 20], "steps": None}, "are not numbers"),
        ({"grid": [2000, 1500, 20], "steps": None}, "grid: expected noise that falls strictly"),
        ({"grid": [], "steps": None}, "grid: expected a sequence of numbers"),
        ({"grid": [[999, 20]], "steps": None}, "grid: expected a sequence of numbers"),
        ({"sigmas": [[3.0, 0.0]], "steps": None}, "sigmas: expected a sequence of numbers"),
        ({"sigmas": [3.0, float("nan"), 0.0], "steps": None}, "are not numbers"),
        ({"sigmas": [3.0, -1.0, 0.0], "steps": None}, "grid: expected noise that falls strictly"),
        ({"sigmas": [1.0, 3.0, 0.0], "steps": None}, "grid: expected noise that falls strictly"),
        ({"sigmas": [0.0], "steps": None}, "grid: expected at least two points"),
        ({"sigmas": [3.0], "steps": None}, "grid: expected at least two points"),
        ({"final_sigma": "none"}, "final_sigma: expected one of zero, sigma_min, got 'none'"),
        ({"start": 0.0}, "start: expected a number in"),
        ({"start": 1.5}, "start: expected a number in"),
        ({"start": float("nan")}, "start: expected a number in"),
        ({"start": 0.05}, "start: expected at least one step to remain of 10"),
        ({"rho": 0.0}, "rho: expected a number > 0"),
        ({"steps_offset": -1}, "steps_offset: expected"),
        ({"grid": "leading", "steps": 1001}, "grid: expected noise that falls strictly"),
    ],
)  # fmt: skip
def test_bad_grids_are_refused_by_name(arguments, message):
    with pytest.raises(ValueError, match=message):
        make_grid(SD, **{"steps": 10, "grid": "time", **arguments})


def test_index_grids_are_refused_on_schedules_without_indices_and_levels_beyond_1_on_flows():
    with pytest.raises(ValueError, match="'leading' needs a discrete schedule; use 'time'"):
        make_grid(fd.Schedule.vp(), 10, "leading")
    with pytest.raises(ValueError, match="noise that falls strictly"):
        make_grid(fd.Schedule.flow(), None, sigmas=[1.2, 0.5, 0.0])
