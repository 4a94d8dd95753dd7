"""Orders of convergence on Gaussian data, whose score and probability flow are known, against the catalogue's claims.

Every solver runs on noise levels smooth and uneven in lambda. Multistep methods start from exact states and outputs.
"""

import numpy as np
import pytest
import torch
from gaussian import DATA, SCHEDULES, run_rows, slope, smooth_levels

import fastdiff as fd

STEPS = (80, 150, 280)
FULL = {"lower_order_final": False}
TABLE = [
    ("ddim", {}, 0), ("euler", {}, 0),
    *[(name, {"coordinate": which}, 0) for name in ("heun", "dpm_2") for which in ("sigma", "flow")],
    *[
        (name, {"correction": correction}, 0)
        for name in ("dpm_solver_2s", "dpm_solver_3s", "dpmpp_2s", "dpmpp_3s")
        for correction in ("midpoint", "heun")
    ],
    *[
        (name, {"correction": correction, **FULL}, 1)
        for name in ("dpm_solver_2m", "dpmpp_2m")
        for correction in ("midpoint", "heun")
    ],
    *[(name, FULL, 2) for name in ("dpm_solver_3m", "dpm_solver_3m_exact", "dpmpp_3m", "dpmpp_3m_exact")],
    ("unipc", FULL, 2), ("unipc_bh1", FULL, 2),
    *[("dpm_solver_v3", {"corrector": c, **FULL}, 2) for c in (False, True)],
    ("dpm_solver_v3", {"statistics": fd.Statistics([0.0], [0.4], [-0.6]), "corrector": False, **FULL}, 2),
    *[(name, {"coordinate": which}, 3) for name in ("lms", "ipndm", "ipndm_v") for which in ("sigma", "flow")],
    *[("adams_moulton", {"coordinate": which}, 2) for which in ("sigma", "flow")],
    ("deis", {}, 2), ("deis_rhoab", {}, 2), ("deis_log_rho", FULL, 2),
    ("pndm", {}, 0), ("plms", {}, 0), ("exp_heun", {}, 0), ("res_multistep", {}, 1),
    *[("gradient_estimation", {"coordinate": which}, 1) for which in ("sigma", "flow")],
]  # fmt: skip
UNIPC = [
    (order, variant, form, corrector)
    for order in (1, 2, 3)
    for variant in ("bh1", "bh2")
    for form in ("data", "noise")
    for corrector in (True, False)
]


def error(solver: str, schedule: str, steps: int, exact_until: int, **options: object) -> float:
    noise_levels = smooth_levels(SCHEDULES[schedule], steps)
    plan = fd.plan(solver, SCHEDULES[schedule], sigmas=noise_levels, **options)
    alpha, sigma = plan.start
    x = alpha * DATA.mean + np.sqrt(DATA.spread(alpha, sigma)) * np.array([1.3, -0.8, 0.6, 1.1])
    exact = DATA.flow(x, plan.start)
    return np.abs(run_rows(plan, DATA.x0, x, exact=exact, exact_until=exact_until) - exact(*plan.end)).max()


def measured_order(solver: str, schedule: str, exact_until: int, **options: object) -> float:
    return slope(STEPS, [error(solver, schedule, n, exact_until, **options) for n in STEPS])


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize(("solver", "options", "exact_until"), TABLE)
def test_deterministic_solver_converges_at_the_order_it_claims(solver, options, exact_until, schedule):
    claimed = next(entry.order for entry in fd.solvers() if entry.name == solver)
    assert measured_order(solver, schedule, exact_until, **options) == pytest.approx(claimed, abs=0.25)


@pytest.mark.parametrize(("order", "variant", "form", "corrector"), UNIPC)
def test_unipc_predictor_has_its_order_and_the_corrector_adds_one(order, variant, form, corrector):
    options = {"order": order, "variant": variant, "form": form, "corrector": corrector, **FULL}
    assert measured_order("unipc", "vp", order, **options) == pytest.approx(order + corrector, abs=0.3)


@pytest.mark.parametrize("coordinate", ["sigma", "flow"])
def test_midpoint_is_second_order_where_the_score_is_not_linear_and_third_on_gaussian_data(coordinate):
    """For z' = a z with a = s / (v + s^2) the leading error a''/24 + a a'/4 + a^3/6 of the midpoint rule is 0."""
    assert measured_order("midpoint", "vp", 0, coordinate=coordinate) == pytest.approx(3, abs=0.1)

    def end(solver, steps, **options):
        plan = fd.plan(solver, SCHEDULES["vp"], sigmas=smooth_levels(SCHEDULES["vp"], steps), **options)
        return run_rows(plan, lambda x, alpha, sigma: np.tanh(x - 0.3 * alpha), np.array([1.3, -0.8, 0.6, 1.1]))

    exact = end("dpmpp_3s", 1500, correction="heun")
    errors = [np.abs(end("midpoint", n, coordinate=coordinate) - exact).max() for n in STEPS]
    assert slope(STEPS, errors) == pytest.approx(2, abs=0.25)


@pytest.mark.parametrize("variable", ["time", "rho", "log_rho"])
@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_deis_has_as_many_orders_as_outputs(order, variable):
    options = {"variable": variable, "order": order, **FULL}
    assert measured_order("deis", "vp", order - 1, **options) == pytest.approx(order, abs=0.3)


@pytest.mark.parametrize("order", [1, 2, 3, 4, 5, 6])
def test_lms_has_as_many_orders_as_outputs(order):
    steps = (113, 160, 226) if order > 4 else STEPS  # more steps reach rounding
    errors = [error("lms", "edm", n, order - 1, order=order) for n in steps]
    assert slope(steps, errors) == pytest.approx(order, abs=0.6 if order > 4 else 0.3)


@pytest.mark.parametrize("order", [2, 3, 4])
def test_ipndm_has_its_full_order_on_equal_steps_of_the_noise_level(order):
    errors = []
    for n in STEPS:
        plan = fd.plan("ipndm", SCHEDULES["edm"], sigmas=np.linspace(5.0, 1.0, n + 1), order=order)
        x = np.array([1.3, -0.8, 0.6, 1.1])
        exact = DATA.flow(x, plan.start)
        errors.append(np.abs(run_rows(plan, DATA.x0, x, exact=exact, exact_until=order - 1) - exact(*plan.end)).max())
    assert slope(STEPS, errors) == pytest.approx(order, abs=0.3)


@pytest.mark.parametrize("order", [1, 2, 4])
def test_adams_moulton_has_as_many_orders_as_outputs_in_its_corrector(order):
    assert measured_order("adams_moulton", "vp", order - 1, order=order) == pytest.approx(order, abs=0.3)


def test_every_deterministic_solver_of_the_catalogue_is_measured():
    assert {entry.name for entry in fd.solvers() if not entry.stochastic} == {"midpoint", *(n for n, *_ in TABLE)}


@pytest.mark.parametrize("solver", ["dpmpp_3m", "dpm_solver_3m"])
def test_exact_3m_leaves_the_published_3m_behind_as_steps_grow(solver):
    """The published form weighs half of the second derivative: the ratio of the errors grows with the steps."""
    ratios = [error(solver, "vp", n, 2, **FULL) / error(f"{solver}_exact", "vp", n, 2, **FULL) for n in (80, 320, 640)]
    assert ratios[0] < ratios[1] < ratios[2]
    assert ratios[2] > 12


def test_lowering_the_final_orders_costs_accuracy_in_a_long_smooth_run():
    kept = error("unipc", "vp", 80, 2, lower_order_final=False)
    assert error("unipc", "vp", 80, 2, lower_order_final=True) > 3 * kept


FLOW = fd.Schedule.flow(t_min=1e-4)
CLEAN_STEPS = np.geomspace(0.002, 0.02, 5)
AT_THE_CLEAN_END = [
    ("heun", {}), ("heun", {"clean_end": "heun"}), ("dpm_2", {}), ("midpoint", {}), ("dpm_2_ancestral", {}),
    ("heun", {"coordinate": "sigma"}), ("midpoint", {"coordinate": "sigma"}),
]  # fmt: skip


def error_of_one_step(solver: str, h: float, invert: bool, **options: object) -> float:
    """Between sigma = h and clean data, from the exact state."""
    plan = fd.plan(solver, FLOW, sigmas=[h, 0.0], invert=invert, **options)
    alpha, sigma = plan.start
    x = alpha * DATA.mean + np.sqrt(DATA.spread(alpha, sigma)) * np.array([1.3, -0.8, 0.6, 1.1])
    return np.abs(run_rows(plan, DATA.x0, x) - DATA.flow(x, plan.start)(*plan.end)).max()


@pytest.mark.parametrize(("solver", "options"), AT_THE_CLEAN_END)
def test_last_step_of_a_velocity_keeps_its_order_on_flow_schedules(solver, options):
    errors = [error_of_one_step(solver, h, False, **options) for h in CLEAN_STEPS]
    assert -slope(CLEAN_STEPS, errors) > 2.7  # one more than the order of the whole run


@pytest.mark.parametrize(
    ("solver", "options"),
    [(name, options) for name, options in AT_THE_CLEAN_END if name != "dpm_2_ancestral"]
    + [(name, {}) for name in ("dpmpp_2m", "dpm_solver_3s", "unipc", "deis", "pndm", "dpm_solver_v3", "exp_heun")],
)
def test_first_step_of_an_inversion_keeps_its_order_on_flow_schedules(solver, options):
    errors = [error_of_one_step(solver, h, True, **options) for h in CLEAN_STEPS]
    assert -slope(CLEAN_STEPS, errors) > 2.7


@pytest.mark.parametrize("invert", [False, True])
@pytest.mark.parametrize("solver", ["heun", "dpm_2", "midpoint"])
def test_runs_that_begin_or_end_on_clean_data_converge_at_second_order_with_velocities(solver, invert):
    """Data N(0, 1/4): the flow maps x at one end to x / 2 or 2 x at the other."""

    def velocity(x, t):
        alpha, sigma = (1 - t)[:, None], t[:, None]
        return (sigma - 0.25 * alpha) / (0.25 * alpha**2 + sigma**2) * x

    start, factor = torch.tensor([[1.3], [-0.7]], dtype=torch.float64), 2.0 if invert else 0.5
    errors = []
    for steps in (16, 32, 64):
        plan = fd.plan(solver, fd.Schedule.flow(), steps, invert=invert)
        errors.append(float((fd.sample(velocity, plan, start) / (factor * start) - 1).abs().max()))
    assert slope((16, 32, 64), errors) > (1.6 if solver == "dpm_2" else 1.9)  # its geometric middle is off at 0
    assert errors[0] < 0.01


def test_predictions_that_say_nothing_there_keep_eulers_step_at_the_clean_end():
    for solver in ("heun", "dpm_2"):
        assert fd.plan(solver, FLOW, 8, prediction="v_prediction").nfe == 15
        assert fd.plan(solver, FLOW, 8, prediction="flow_prediction").nfe == 16
    euler = fd.plan("heun", FLOW, 8, clean_end="euler")
    assert (euler.nfe, euler.rows[-1].x.history) == (15, (1.0,))
    with pytest.raises(ValueError, match="clean_end: expected one of midpoint, heun, euler, got 'none'"):
        fd.plan("heun", FLOW, 8, clean_end="none")


def test_steps_too_short_for_a_middle_that_the_schedule_has_take_one_evaluation():
    assert fd.plan("heun", fd.Schedule.flow(), 8, grid="karras").nfe == 15  # from t_min to 0
    assert fd.plan("midpoint", fd.Schedule.flow(), 8, grid="karras", invert=True).nfe == 15
