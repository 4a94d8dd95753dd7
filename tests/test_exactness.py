"""Where the predicted quantity is a polynomial in lambda of the degree that a method resolves, the method is exact.

In data form the ODE's solution for x0 = P(lambda) is x = C sigma + alpha (P - P' + P'' - ...); in noise form for
eps = P(lambda) it is x = C alpha + sigma (P + P' + P'' + ...). With reverse-SDE noise eta the mean for x0 = P is
x = C sigma e^(-eta lambda) + alpha (P - P'/(1 + eta) + P''/(1 + eta)^2 - ...).
"""

import numpy as np
import pytest
from gaussian import SCHEDULES, run_rows, smooth_levels
from numpy.polynomial import Polynomial

import fastdiff as fd

FULL = {"lower_order_final": False}
CUBIC = Polynomial([0.7, -0.4, 0.9, 0.3])  # cut to the degree wanted


def solution(p: Polynomial, form: str, c: float, eta: float = 0.0):
    def x(alpha, sigma):
        log_snr, sign = np.log(alpha / sigma), (-1 / (1 + eta) if form == "data" else 1.0)
        total = sum(sign**k * (p.deriv(k) if k else p)(log_snr) for k in range(4))
        free, held = (sigma, alpha) if form == "data" else (alpha, sigma)
        return np.array(c * free * (alpha / sigma) ** -eta + held * total)

    return x


def error(solver: str, schedule: str, degree: int, options: dict[str, object]) -> float:
    """With two exact earlier states and outputs, on uneven steps."""
    form = options.get("form", "noise" if solver.startswith("dpm_solver_") and solver[11] in "23" else "data")
    p = CUBIC.cutdeg(degree)
    plan = fd.plan(
        solver, SCHEDULES[schedule], sigmas=smooth_levels(SCHEDULES[schedule], 9),
        prediction="sample" if form == "data" else "epsilon",
        **{name: value for name, value in options.items() if name != "form" or not solver.startswith("deis")},
    )  # fmt: skip
    exact = solution(p, form, 0.8, options.get("eta", 0.0))

    def x0(x, alpha, sigma):
        value = p(np.log(alpha / sigma))
        return value if form == "data" else (x - sigma * value) / alpha

    x, silent = exact(*plan.start), lambda j: 0.0
    end = run_rows(plan, x0, x, exact=exact, exact_until=2, noise=silent)
    return float(abs(end - exact(*plan.end)))


TAYLOR = {"correction": "heun"}
EXACT = [  # solver, options, degree
    ("ddim", {}, 0),
    ("dpmpp_2m", {**TAYLOR, **FULL}, 1),
    ("dpm_solver_2m", {**TAYLOR, **FULL}, 1),
    ("dpmpp_3m", FULL, 1),
    ("dpm_solver_3m", FULL, 1),
    ("dpmpp_3m_exact", FULL, 2),
    ("dpm_solver_3m_exact", FULL, 2),
    ("dpmpp_2s", TAYLOR, 1),
    ("dpmpp_2s", {**TAYLOR, "r1": 0.3}, 1),
    ("dpm_solver_2s", TAYLOR, 1),
    ("dpmpp_3s", {}, 1),
    ("dpmpp_3s", TAYLOR, 2),
    ("dpmpp_3s", {**TAYLOR, "r1": 0.25, "r2": 0.8}, 2),
    ("dpm_solver_3s", TAYLOR, 2),
    ("dpmpp_2m_sde", {**TAYLOR, "eta": 1.0, **FULL}, 1),
    ("dpmpp_2m_sde", {**TAYLOR, "eta": 0.4, **FULL}, 1),
    ("dpmpp_3m_sde", {"eta": 1.0, "exact": True, **FULL}, 2),
    ("dpm_solver_v3", {"corrector": False, **FULL}, 2),
    ("res_multistep", {}, 1),
    ("exp_heun", {}, 1),
    ("seeds_2", {"eta": 0.4, "correction": "heun"}, 1),
    ("seeds_3", {"eta": 1.0}, 1),
    ("deis_log_rho", {"order": 4, "form": "noise", **FULL}, 2),
    ("sa_solver", {"tau": 0.0, "predictor_order": 3, "corrector_order": 3, **FULL}, 2),
    ("sa_solver_pece", {"tau": 0.0, "predictor_order": 3, "corrector_order": 3, **FULL}, 2),
    *[
        ("unipc", {"order": 3, "variant": variant, "form": form, "corrector": corrector, **FULL}, 2)
        for variant in ("bh1", "bh2")
        for form in ("data", "noise")
        for corrector in (True, False)
    ],
]
NOT_EXACT = [
    ("dpmpp_2m", FULL, 1),  # the midpoint correction
    ("dpmpp_3m", FULL, 2),  # the halved second derivative
    ("dpmpp_3m_exact", FULL, 3),
    ("dpmpp_3s", {}, 2),
    ("unipc", {"order": 3, **FULL}, 3),
]


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize(("solver", "options", "degree"), EXACT)
def test_polynomials_of_the_degree_a_method_resolves_are_solved_exactly(solver, options, degree, schedule):
    assert error(solver, schedule, degree, options) < 1e-12


@pytest.mark.parametrize(("solver", "options", "degree"), NOT_EXACT)
def test_the_next_degree_is_not_exact(solver, options, degree):
    assert error(solver, "vp", degree, options) > 1e-3


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("entry", fd.solvers(), ids=lambda entry: entry.name)
@pytest.mark.parametrize("grid", ["time", "karras", "logsnr", "quadratic", "exponential"])
def test_constant_data_is_reached_exactly_by_every_solver_on_every_grid(entry, schedule, grid):
    for steps in (1, 2, 3, 17):
        plan = fd.plan(entry.name, SCHEDULES[schedule], steps, grid=grid, prediction="flow_prediction")
        data, start = np.array([0.3, -2.0]), plan.init_scale * np.array([1.5, -0.2])
        end = run_rows(plan, lambda x, alpha, sigma, data=data: data, start, noise=float)
        # A start that evaluates at both ends of a step in eps multiplies rounding by the ratio of their noise levels,
        # and levels close together, as EDM's large ones are in the flow's coordinate, by weights that nearly cancel.
        weights = max(sum(map(abs, line.history)) for row in plan.rows for line in (row.x, row.base) if line)
        rounding = 4 * np.finfo(float).eps * np.abs(start).max() * weights
        np.testing.assert_allclose(end, data, rtol=0, atol=1e-6 if entry.extra_nfe else max(1e-12, rounding))


@pytest.mark.parametrize("entry", fd.solvers(), ids=lambda entry: entry.name)
@pytest.mark.parametrize("schedule", [fd.Schedule.scaled_linear(), fd.Schedule.cosine()], ids=["scaled", "cosine"])
def test_constant_data_is_reached_exactly_on_whole_training_indices(entry, schedule):
    for grid in ("trailing", "quadratic"):
        for steps in (1, 4, 20):
            plan = fd.plan(entry.name, schedule, steps, grid=grid, prediction="v_prediction")
            data = np.array([0.3, -2.0])
            end = run_rows(plan, lambda x, alpha, sigma, data=data: data, np.array([1.5, -0.2]), noise=float)
            np.testing.assert_allclose(end, data, rtol=0, atol=1e-6 if entry.extra_nfe > 0 else 1e-10)
