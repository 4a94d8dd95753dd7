"""No plan asks the model about a time or a noise level outside its schedule."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fastdiff as fd
from fastdiff.plans.grid import GRIDS, make_grid

INDEX_GRIDS = ("linspace", "leading", "trailing")
betas = st.lists(st.floats(1e-4, 0.4), min_size=2, max_size=60)
discrete = st.one_of(
    st.builds(fd.Schedule.from_betas, betas),
    st.builds(lambda b: fd.Schedule.from_alphas_cumprod(np.cumprod(1 - np.array(b))), betas),
    st.builds(fd.Schedule.linear, st.floats(1e-5, 1e-3), st.floats(0.01, 0.05)),
    st.builds(fd.Schedule.scaled_linear),
    st.builds(fd.Schedule.cosine, st.sampled_from([10, 100, 1000])),
)
schedules = st.one_of(
    discrete,
    discrete.map(lambda schedule: schedule.zero_terminal_snr()),
    st.builds(fd.Schedule.cosine, st.none(), st.floats(0.0, 0.1)),
    st.builds(fd.Schedule.vp, st.floats(0.01, 1.0), st.floats(2.0, 30.0), st.floats(1e-5, 1e-2)),
    st.builds(fd.Schedule.edm, st.floats(1e-3, 0.1), st.floats(1.0, 1000.0)),
    st.builds(fd.Schedule.flow, st.floats(0.1, 20.0), t_min=st.floats(1e-5, 1e-2)),
    st.builds(fd.Schedule.flow, tokens=st.integers(64, 8192)),
)
final_sigmas = st.sampled_from(["zero", "sigma_min"])


def inside(schedule: fd.Schedule, t, log_snr) -> bool:
    first, last = (float(schedule.log_snr(at)) for at in (schedule.t_max, schedule.t_min))
    times = (t >= schedule.t_min * (1 - 1e-12)) & (t <= schedule.t_max * (1 + 1e-12))
    return bool(np.all(times & (log_snr >= first - 1e-9) & (log_snr <= last + 1e-9)))


@settings(max_examples=150)
@given(schedules, st.sampled_from(GRIDS), st.integers(1, 1000), final_sigmas)
def test_every_named_grid_keeps_within_the_schedule_however_many_steps(schedule, grid, steps, final_sigma):
    try:
        points = make_grid(schedule, steps, grid, final_sigma=final_sigma)
    except ValueError:  # of these alone: no indices, more steps than indices, levels that the schedule has not
        assert grid in (*INDEX_GRIDS, "ays")
        return
    asked = points.at(slice(-1)) if final_sigma == "zero" else points
    assert inside(schedule, asked.t, asked.log_snr)
    assert len(points.t) == steps + 1


@settings(max_examples=250)
@given(
    schedules, st.sampled_from(GRIDS), st.one_of(st.integers(1, 40), st.sampled_from([100, 400])), final_sigmas,
    st.sampled_from(fd.solvers()), st.sampled_from(["v_prediction", "flow_prediction"]), st.sampled_from([1.0, 0.5]),
    st.booleans(),
)  # fmt: skip
def test_no_solver_asks_the_model_outside_the_schedule(
    schedule, grid, steps, final_sigma, solver, prediction, start, invert
):
    options = {"grid": grid, "final_sigma": final_sigma, "prediction": prediction}
    steps += steps % 2  # half of them remain
    try:
        plan = fd.plan(solver.name, schedule, steps, start=start, invert=invert and not solver.stochastic, **options)
    except ValueError as error:
        refused = str(error)
        assert grid in (*INDEX_GRIDS, "ays") or (solver.name == "restart" and "intervals" in refused)
        return
    for row in plan.rows:
        if row.sigma == 0:
            assert row.t == schedule.least_time(prediction)
        else:
            assert inside(schedule, row.t, np.log(row.alpha) - np.log(row.sigma) if row.alpha else -np.inf)


@pytest.mark.parametrize("solver", ["dpm_2_ancestral", "dpmpp_2s_ancestral"])
def test_ancestral_stages_stay_within_where_more_noise_than_the_posteriors_leaves_them_below_the_step(solver):
    schedule = fd.Schedule.edm()
    plan = fd.plan(solver, schedule, 8, grid="karras", eta=1.3)
    assert min(row.t for row in plan.rows) >= schedule.t_min * (1 - 1e-12)


@pytest.mark.parametrize("steps", [32, 100, 1000])
@pytest.mark.parametrize("grid", ["time", "quadratic"])
@pytest.mark.parametrize("schedule", [fd.Schedule.scaled_linear(), fd.Schedule.vp(), fd.Schedule.flow(3.0)])
def test_grids_in_time_end_on_the_least_time_where_a_step_from_clean_data_is_below_it(schedule, grid, steps):
    times = make_grid(schedule, steps, grid).t
    span = schedule.unshift_time(schedule.t_max) - schedule.t_clean
    step = span / steps if grid == "time" else span / steps**2
    expected = schedule.shift_time(np.float64(schedule.t_clean + step)) if grid == "time" else schedule.t_clean + step
    assert times[-2] == pytest.approx(max(float(expected), schedule.t_min), rel=1e-9, abs=1e-9)


def test_grids_in_time_of_few_steps_are_uniform_down_to_clean_data():
    schedule = fd.Schedule.scaled_linear()
    np.testing.assert_allclose(make_grid(schedule, 31, "quadratic").t, 1000 * np.linspace(1, 0, 32) ** 2 - 1, atol=1e-9)


@pytest.mark.parametrize(
    ("schedule", "arguments", "message"),
    [
        (fd.Schedule.edm(), {"sigmas": [100.0, 1.0, 0.0]}, "sigmas: .* point 0 has t = 100, sigma/alpha = 100"),
        (fd.Schedule.edm(), {"sigmas": [80.0, 1.0, 1e-4, 0.0]}, "sigmas: .* point 2 has t = 0.0001"),
        (fd.Schedule.edm(), {"grid": [90.0, 1.0]}, "grid: .* point 0 has t = 90"),
        (fd.Schedule.scaled_linear(), {"sigmas": [20.0, 1.0, 0.0]}, "sigmas: .* point 0 .* sigma/alpha = 20"),
        (fd.Schedule.scaled_linear(), {"grid": [1200.0, 500.0]}, "grid: .* point 0 has t = 1200"),
        (fd.Schedule.scaled_linear(), {"grid": [900.0, -0.5]}, "grid: .* point 1 has t = -0.5"),
        (fd.Schedule.vp(), {"grid": [1.5, 0.5]}, "grid: .* point 0 has t = 1.5"),
        (fd.Schedule.flow(), {"grid": [1.0, 1e-5], "prediction": "v_prediction"}, "grid: .* point 1 has t = 1e-05"),
    ],
)
def test_arrays_that_leave_the_schedule_are_refused_with_its_range(schedule, arguments, message):
    with pytest.raises(ValueError, match=message):
        fd.plan("ddim", schedule, **{"prediction": "sample", **arguments})


def test_arrays_may_be_rounded_to_float32_and_go_down_to_where_a_velocity_is_finite():
    schedule = fd.Schedule.scaled_linear()
    sigmas = schedule.coordinate(schedule.at(np.array([999.0, 400.0, 0.0]))).astype(np.float32)
    assert fd.plan("ddim", schedule, sigmas=[*sigmas, 0.0]).rows[0].t == pytest.approx(999)
    assert fd.plan("ddim", fd.Schedule.flow(), sigmas=[1.0, 0.5, 1e-5, 0.0]).rows[-1].t == pytest.approx(1e-5)


@pytest.mark.parametrize(
    ("schedule", "grid"),
    [
        (fd.Schedule.edm(), "ays"), (fd.Schedule.edm(0.5, 80.0), "ays:sd15"), (fd.Schedule.scaled_linear(), "ays:svd"),
        (fd.Schedule.linear(num_train_timesteps=50), "ays"),
    ],
)  # fmt: skip
def test_ays_is_refused_where_the_schedule_has_not_the_tables_levels_with_what_to_use(schedule, grid):
    with pytest.raises(ValueError, match=r"table of 'ays' has sigma/alpha from .* use one of .*karras, logsnr"):
        fd.plan("ddim", schedule, 10, grid=grid)


@pytest.mark.parametrize("name", ["sd15", "sdxl"])
@pytest.mark.parametrize("schedule", [fd.Schedule.vp(), fd.Schedule.edm(), fd.Schedule.cosine(), fd.Schedule.linear()])
def test_ays_has_its_noise_levels_on_every_schedule_that_has_them_and_starts_at_the_schedules_own(schedule, name):
    levels = fd.Schedule.scaled_linear()
    own = make_grid(levels, 10, f"ays:{name}")
    points = make_grid(schedule, 10, f"ays:{name}")
    np.testing.assert_allclose(points.log_snr[1:-1], own.log_snr[1:-1], rtol=1e-10)
    assert points.t[0] == schedule.t_max
