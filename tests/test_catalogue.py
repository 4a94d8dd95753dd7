"""The solvers by name: what people call them, what they take, and what is refused."""

import pytest
import torch

import fastdiff as fd
from fastdiff.plans.catalogue import find_solver

SD = fd.Schedule.scaled_linear()
NAMES = [entry.name for entry in fd.solvers()]


def test_every_name_and_alias_finds_its_solver_in_any_spelling():
    for entry in fd.solvers():
        for name in (entry.name, *entry.aliases):
            for spelling in (name, name.upper(), name.replace(" ", "_"), f"k_{name}"):
                assert find_solver(spelling) == (entry, None)


def test_no_name_means_two_solvers():
    names = [name for entry in fd.solvers() for name in {alias.lower() for alias in (entry.name, *entry.aliases)}]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    ("name", "solver", "grid"),
    [
        ("DPM++ 2M Karras", "dpmpp_2m", "karras"),
        ("DPM++ 2M SDE Exponential", "dpmpp_2m_sde", "exponential"),
        ("DPM++ SDE Karras", "dpmpp_sde", "karras"),
        ("Euler a", "euler_ancestral", "time"),
        ("DPM2 a Karras", "dpm_2_ancestral", "karras"),
        ("UniPC AYS", "unipc", "ays"),
        ("DPMSolverMultistepScheduler", "dpmpp_2m", "time"),
    ],
)
def test_the_names_of_user_interfaces_bring_their_grid(name, solver, grid):
    plan = fd.plan(name, SD, 6)
    assert (plan.solver, plan.grid) == (solver, grid)
    assert plan == fd.plan(solver, SD, 6, grid=grid)


def test_a_grid_that_is_given_wins_over_the_alias():
    assert fd.plan("DPM++ 2M Karras", SD, 6, grid="logsnr") == fd.plan("dpmpp_2m", SD, 6, grid="logsnr")


@pytest.mark.parametrize("entry", fd.solvers(), ids=NAMES)
def test_evaluations_a_step_and_noise_are_what_the_catalogue_says(entry):
    plan = fd.plan(entry.name, SD, 8, grid="logsnr", final_sigma="sigma_min")
    assert plan.nfe == 8 * entry.nfe + entry.extra_nfe
    assert plan.stochastic == entry.stochastic
    assert entry.paper


@pytest.mark.parametrize("entry", fd.solvers(), ids=NAMES)
@pytest.mark.parametrize("prediction", ["sample", "v_prediction", "flow_prediction"])
@pytest.mark.parametrize(
    "schedule", [SD.zero_terminal_snr(), fd.Schedule.flow(3.0), fd.Schedule.cosine(None)], ids=["vp", "flow", "cosine"]
)
def test_every_solver_starts_at_alpha_0_and_ends_at_sigma_0_with_finite_rows(schedule, prediction, entry):
    for grid in ("time", "logsnr"):
        for steps in (1, 2, 3, 5, 20):
            plan = fd.plan(entry.name, schedule, steps, grid=grid, prediction=prediction)
            assert plan.start == (0, 1)
            assert plan.end == (1, 0)
            assert plan.init_scale == 1


@pytest.mark.parametrize("prediction", ["epsilon", "score"])
def test_noise_predictions_cannot_start_at_alpha_0(prediction):
    with pytest.raises(ValueError, match=f"{prediction} says nothing about x0"):
        fd.plan("dpmpp_2m", fd.Schedule.flow(), 5, prediction=prediction)


def test_first_step_from_alpha_0_and_last_step_to_sigma_0_are_first_order():
    plan = fd.plan("dpmpp_3m", SD.zero_terminal_snr(), 20, grid="logsnr", prediction="v_prediction")
    assert [len(row.x.history) for row in plan.rows] == [1, 1, 2] + [3] * 16 + [1]
    first, last = plan.rows[0], plan.rows[-1]
    assert (first.x.x, first.x.history[0]) == (plan.rows[1].sigma, plan.rows[1].alpha)
    assert (last.x.x, last.x.history) == (0, (1.0,))


@pytest.mark.parametrize(
    ("name", "steps", "orders"),
    [
        ("dpmpp_3m", 6, [1, 2, 3, 3, 2, 1]),
        ("dpmpp_3m", 14, [1, 2] + [3] * 10 + [2, 1]),
        ("dpmpp_3m", 15, [1, 2] + [3] * 13),
        ("unipc", 5, [1, 2, 2, 2, 1]),
        ("unipc", 20, [1] + [2] * 18 + [1]),
    ],
)
def test_orders_fall_at_the_end_of_short_runs_and_of_any_unipc_run(name, steps, orders):
    options = {"corrector": False} if name == "unipc" else {}
    plan = fd.plan(name, SD, steps, grid="logsnr", final_sigma="sigma_min", **options)
    assert [len(row.x.history) for row in plan.rows] == orders


@pytest.mark.parametrize(
    ("solver", "options", "message"),
    [
        ("dpmpp_2n", {}, r"solver: 'dpmpp_2n' is not known; did you mean .*dpmpp_2m.*fastdiff.solvers\(\) lists all"),
        ("zzz", {}, "did you mean ddim, ddpm, euler"),
        ("ddim", {"gamma": 1}, "gamma: ddim has no such option; it has eta, s_noise"),
        ("heun", {"eta": 1.0}, "eta: heun has no such option; it has coordinate"),
        ("ddim", {"eta": -1.0}, "eta: expected a number >= 0, got -1.0"),
        ("ddim", {"eta": float("nan")}, "eta: expected a number >= 0"),
        ("ddpm", {"s_noise": "1"}, "s_noise: expected a number >= 0, got '1'"),
        ("dpmpp_3m", {"order": 4}, "order: expected a whole number from 1 to 3, got 4"),
        ("dpmpp_3m", {"order": 0}, "order: expected a whole number from 1 to 3, got 0"),
        ("unipc", {"order": 3, "steps": 2}, "order: expected at most the number of steps, 2; got 3"),
        ("unipc", {"variant": "bh3"}, "variant: expected bh1, bh2 or vary, got 'bh3'"),
        ("dpmpp_2m", {"correction": "euler"}, "correction: expected midpoint or heun, got 'euler'"),
        ("dpmpp_2m", {"form": "velocity"}, "form: expected data or noise, got 'velocity'"),
        ("dpmpp_2m_sde", {"form": "noise", "eta": 0.5}, "eta: expected 0 or 1 in noise form"),
        ("heun", {"coordinate": "log"}, "coordinate: expected 'sigma' or 'flow', got 'log'"),
        ("dpmpp_2s", {"r1": 0.0}, r"r1: expected a number in \(0, 1\], got 0.0"),
        ("dpmpp_sde", {"r": 1.5}, r"r: expected a number in \(0, 1\], got 1.5"),
        ("ddim", {"prediction": "velocity"}, "prediction: expected one of epsilon"),
        ("ddim", {"steps": 0}, "steps: expected a whole number >= 1, got 0"),
        ("ddim", {"grid": "kerras"}, "grid: expected one of logsnr"),
    ],
)
def test_bad_requests_are_refused_by_name(solver, options, message):
    with pytest.raises(ValueError, match=message):
        fd.plan(solver, SD, **{"steps": 10, **options})


def test_singlestep_order_is_not_bounded_by_the_steps():
    assert fd.plan("dpmpp_2s", SD, 1, order=3, final_sigma="sigma_min").nfe == 3


def test_heun_and_dpm_2_stay_near_the_solution_in_few_steps_where_sigma_over_alpha_starts_at_20_000():
    schedule, noise = fd.Schedule.cosine(), torch.ones(1, 1, dtype=torch.float64)

    def model(x, t):  # the exact velocity of data with variance 1/4
        alpha, sigma = (torch.as_tensor(f(t.numpy()))[:, None] for f in (schedule.alpha, schedule.sigma))
        x0 = 0.25 * alpha * x / (0.25 * alpha**2 + sigma**2)
        return (alpha * x - x0) / sigma

    for solver in ("heun", "dpm_2"):
        x = fd.sample(model, fd.plan(solver, schedule, 4, grid="quadratic", prediction="v_prediction"), noise)
        assert 0.3 < x < 0.7  # the model is linear: 1/2 at the solution
