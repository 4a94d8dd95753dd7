"""DPM-Solver-v3: its parameterisations at the ends are the known solvers, and the statistics are the model's own."""

import numpy as np
import pytest
import torch
from gaussian import DATA, SCHEDULES, run_rows, smooth_levels

import fastdiff as fd

FULL = {"lower_order_final": False}


def perfect(schedule: fd.Schedule, mean: np.ndarray, variance: np.ndarray):
    """The velocity eps - x0 of Gaussian data."""

    def model(x, t):
        alpha, sigma = (torch.as_tensor(f(t.double().numpy()))[:, None] for f in (schedule.alpha, schedule.sigma))
        m, v = torch.from_numpy(mean), torch.from_numpy(variance)
        x0 = m + alpha * v * (x - alpha * m) / (alpha**2 * v + sigma**2)
        return (x - alpha * x0) / sigma - x0

    return model


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize(("l", "s", "other"), [(1.0, 0.0, "dpmpp_3m_exact"), (0.0, -1.0, "dpm_solver_3m_exact")])
def test_data_and_noise_prediction_are_two_of_its_parameterisations(schedule, l, s, other, order):  # noqa: E741
    schedule, x = SCHEDULES[schedule], np.array([1.3, -0.8, 0.6, 1.1])
    levels = smooth_levels(schedule, 12)
    v3 = fd.plan(
        "dpm_solver_v3", schedule, sigmas=levels, order=order, corrector=False,
        statistics=fd.Statistics([0.0], [l], [s]), **FULL,
    )  # fmt: skip
    known = fd.plan(other, schedule, sigmas=levels, order=order, correction="heun", **FULL)
    np.testing.assert_allclose(run_rows(v3, DATA.x0, x), run_rows(known, DATA.x0, x), rtol=1e-11, atol=1e-12)


def test_the_corrector_adds_accuracy():
    schedule, x = SCHEDULES["vp"], np.array([1.3, -0.8, 0.6, 1.1])
    errors = []
    for corrector in (False, True):
        plan = fd.plan("dpm_solver_v3", schedule, sigmas=smooth_levels(schedule, 40), corrector=corrector, **FULL)
        exact = DATA.flow(x, plan.start)
        errors.append(np.abs(run_rows(plan, DATA.x0, x, exact=exact, exact_until=2) - exact(*plan.end)).max())
    assert errors[1] < errors[0] / 2


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_l_is_the_mean_diagonal_of_the_noise_predictions_jacobian(schedule):
    schedule = SCHEDULES[schedule]
    model, noise = perfect(schedule, DATA.mean, DATA.variance), torch.randn(4, 4, dtype=torch.float64)
    found = fd.estimate_statistics(model, schedule, noise, steps=20, prediction="flow_prediction")
    ratio = np.exp(-2 * found.log_snr)[:, None]
    np.testing.assert_allclose(found.l, (ratio / (DATA.variance + ratio)).mean(1), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_where_one_l_fits_every_component_a_few_steps_are_nearly_exact(schedule):
    """Centred isotropic data: with the right l, f vanishes."""
    schedule, variance = SCHEDULES[schedule], np.full(4, 0.3)
    model, noise = perfect(schedule, np.zeros(4), variance), torch.randn(4, 4, dtype=torch.float64)
    statistics = fd.estimate_statistics(model, schedule, noise, steps=200, prediction="flow_prediction")
    options = {"grid": "logsnr", "prediction": "flow_prediction", "final_sigma": "sigma_min"}
    errors = []
    for known in (statistics, fd.Statistics([0.0], [1.0], [0.0])):
        plan = fd.plan("dpm_solver_v3", schedule, 5, statistics=known, **options)
        (a_s, s_s), (a_t, s_t) = plan.start, plan.end
        scale = np.sqrt((a_t**2 * 0.3 + s_t**2) / (a_s**2 * 0.3 + s_s**2))
        errors.append(float((fd.sample(model, plan, noise) - scale * plan.init_scale * noise).abs().max()))
    assert errors[0] < 0.02
    assert errors[0] < errors[1] / 5


def test_statistics_of_other_shapes_are_refused():
    for arguments, message in [
        (([0.0, 1.0], [1.0], [0.0, 0.0]), "as many in l as in log_snr"),
        (([0.0], [float("nan")], [0.0]), "expected finite numbers"),
        (([1.0, 0.0], [1.0, 1.0], [0.0, 0.0]), "expected log_snr to rise"),
    ]:
        with pytest.raises(ValueError, match=message):
            fd.Statistics(*arguments)
    with pytest.raises(ValueError, match="model: gave numbers that are not finite"):
        fd.estimate_statistics(lambda x, t: x * float("nan"), fd.Schedule.vp(), torch.randn(2, 3), steps=5)
