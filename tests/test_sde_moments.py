"""Stochastic solvers on Gaussian data: their mean and variance, propagated exactly, converge to the data's.

Every row is linear, so a state is carried as its coefficients over (1, x at the start, xi_1, xi_2, ...): no sampling.
Where x starts at a fixed value, the exact law at the end follows from the reverse SDE with noise level e: it scales
x - alpha mean by (V_t / V_s)^((1 + e) / 2) (alpha_s / alpha_t)^e, V = alpha^2 v + sigma^2, and keeps V where x has it.
"""

import numpy as np
import pytest
from gaussian import DATA, SCHEDULES, run_rows, slope, smooth_levels

import fastdiff as fd

STEPS = (57, 80, 113, 160, 226)
FULL = {"lower_order_final": False}


def square(rho):
    """The noise scaler of the reverse SDE."""
    return rho**2


# name, options, the e of the SDE that it discretises; None where that changes along the way
SOLVERS = [
    ("ddpm", {}, 1.0),
    ("ddpm", {"eta": 0.5}, 0.25),
    ("euler_ancestral", {}, 1.0),
    ("dpm_2_ancestral", {}, 1.0),
    ("dpm_2_ancestral", {"eta": 0.5}, 0.25),
    ("dpmpp_2s_ancestral", {}, 1.0),
    ("dpmpp_2s_ancestral", {"eta": 0.5}, 0.25),
    ("dpmpp_sde", {}, 1.0),
    ("dpmpp_sde", {"eta": 0.5}, 0.25),
    ("dpmpp_sde", {"r": 0.4}, 1.0),
    ("dpmpp_2m_sde", FULL, 1.0),
    ("dpmpp_2m_sde", {"correction": "heun", "eta": 0.5, **FULL}, 0.5),
    ("dpmpp_3m_sde", FULL, 1.0),
    ("dpmpp_3m_sde", {"eta": 0.6, "exact": True, **FULL}, 0.6),
    ("seeds_2", {}, 1.0),
    ("seeds_2", {"eta": 0.5, "correction": "heun", "r1": 0.7}, 0.5),
    ("seeds_3", {}, 1.0),
    ("seeds_3", {"eta": 0.5}, 0.5),
    ("exp_heun_sde", {}, 1.0),
    ("sa_solver", {"simple": True, **FULL}, 1.0),
    ("sa_solver", {"corrector_order": 0, **FULL}, 1.0),
    ("sa_solver", {"tau": 0.5, "corrector_order": 0, **FULL}, 0.25),
    ("sa_solver", {"predictor_order": 3, "corrector_order": 4, **FULL}, 1.0),
    ("sa_solver_pece", FULL, 1.0),
    ("er_sde", {}, None),
    ("er_sde", {"order": 2, "noise_scaler": square}, 1.0),
    ("er_sde", {"noise_scaler": square}, 1.0),
]


def noise_count(plan: fd.Plan) -> int:
    lines = [line for row in plan.rows for line in (row.x, row.base) if line is not None]
    return max((j for line in lines for j, _ in line.noise), default=0)


def coefficients(plan: fd.Plan) -> np.ndarray:
    """[components, 2 + noises] of the final x over 1, the first x, xi_1, xi_2, ..."""
    width = 2 + noise_count(plan)
    one, first, *xi = np.eye(width)

    def x0(x: np.ndarray, alpha: float, sigma: float) -> np.ndarray:
        gain = (alpha * DATA.variance / DATA.spread(alpha, sigma))[:, None]
        mean = DATA.mean[:, None] * one
        return mean + gain * (x - alpha * mean)

    return run_rows(plan, x0, np.tile(first, (len(DATA.mean), 1)), noise=lambda j: xi[j - 1])


def moments(plan: fd.Plan, mean: np.ndarray, variance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of the final x, for a first x of these moments."""
    c = coefficients(plan)
    return c[:, 0] + c[:, 1] * mean, c[:, 1] ** 2 * variance + (c[:, 2:] ** 2).sum(1)


def on_grid(solver: str, schedule: str, steps: int, **options: object) -> fd.Plan:
    levels = smooth_levels(SCHEDULES[schedule], steps, first=-2.0, last=2.0)
    return fd.plan(solver, SCHEDULES[schedule], sigmas=levels, prediction="sample", **options)


def claimed_order(solver: str) -> int:
    return next(entry.order for entry in fd.solvers() if entry.name == solver)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize(("solver", "options", "e"), SOLVERS)
def test_variance_converges_to_the_datas_at_the_order_claimed_and_the_mean_is_exact(solver, options, e, schedule):
    errors = []
    for n in STEPS:
        plan = on_grid(solver, schedule, n, **options)
        mean, variance = moments(plan, plan.start[0] * DATA.mean, DATA.spread(*plan.start))
        np.testing.assert_allclose(mean, plan.end[0] * DATA.mean, atol=1e-13)
        errors.append(np.abs(variance - DATA.spread(*plan.end)).max())
    assert slope(STEPS, errors) == pytest.approx(claimed_order(solver), abs=0.3)


@pytest.mark.parametrize(("solver", "options", "e"), [case for case in SOLVERS if case[2] is not None])
def test_from_a_fixed_start_mean_and_variance_converge_to_the_reverse_sdes(solver, options, e):
    """Order 1 at least: this is a stronger statement than the marginals', whose noise may enter a step late."""
    errors = []
    for n in STEPS:
        plan = on_grid(solver, "vp", n, **options)
        (a_s, _), (a_t, _) = plan.start, plan.end
        before, after = DATA.spread(*plan.start), DATA.spread(*plan.end)
        factor = (after / before) ** ((1 + e) / 2) * (a_s / a_t) ** e
        offset = np.array([2.0, -1.0, 0.5, 1.5])
        mean, variance = moments(plan, a_s * DATA.mean + offset, np.zeros(4))
        wrong = [mean - a_t * DATA.mean - factor * offset, variance - (after - factor**2 * before)]
        errors.append(np.abs(wrong).max())
    assert slope(STEPS, errors) > 0.9
    assert errors[-1] < 0.12


def test_every_stochastic_solver_of_the_catalogue_is_measured():
    assert {entry.name for entry in fd.solvers() if entry.stochastic and entry.order} == {
        *(name for name, *_ in SOLVERS), "restart",
    }  # fmt: skip


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize(
    ("solver", "options", "order"),
    [
        ("euler", {"s_churn": 8.0}, 1),
        ("heun", {"s_churn": 8.0}, 2),
        ("heun", {"s_churn": 16.0, "s_tmin": 0.5, "s_tmax": 2.0, "coordinate": "sigma"}, 2),
        ("dpm_2", {"s_churn": 8.0}, 2),
        ("restart", {"intervals": ((0.3, 1.0, 0.25, 2), (1.5, 3.0, 0.1, 1))}, 2),
    ],
)
def test_noise_put_back_keeps_the_law_at_the_order_of_the_steps(solver, options, order, schedule):
    """Restart's stretches take a share of the steps."""
    errors = []
    for n in STEPS:
        counted = dict(options)
        if "intervals" in counted:
            counted["intervals"] = [(low, high, round(share * n), k) for low, high, share, k in counted["intervals"]]
        plan = on_grid(solver, schedule, n, **counted)
        assert plan.stochastic
        mean, variance = moments(plan, plan.start[0] * DATA.mean, DATA.spread(*plan.start))
        np.testing.assert_allclose(mean, plan.end[0] * DATA.mean, atol=1e-12)
        errors.append(np.abs(variance - DATA.spread(*plan.end)).max())
    assert slope(STEPS, errors) == pytest.approx(order, abs=0.3)


def test_restart_asks_the_model_where_it_says_and_returns_to_the_same_noise():
    plan = fd.plan("restart", fd.Schedule.edm(), 10, grid="karras", intervals=[(0.1, 0.5, 4, 3)])
    assert plan.nfe == 2 * 10 - 1 + 2 + 4 * 3 * 2
    ups = [i for i in range(plan.nfe - 1) if plan.rows[i].x.noise]
    assert [plan.point_after(i)[1] for i in ups] == pytest.approx([0.5] * 3)
    assert len({j for i in ups for j, _ in plan.rows[i].x.noise}) == 3
    for interval in ((100.0, 200.0, 4, 3), (1.0, 81.0, 4, 3), (0.001, 0.3, 4, 3)):
        with pytest.raises(ValueError, match=r"intervals: expected levels of sigma/alpha within <Schedule ve: t 0.002"):
            fd.plan("restart", fd.Schedule.edm(), 10, intervals=[interval])
    with pytest.raises(ValueError, match="intervals: expected a low end within the run's noise levels, got 10"):
        fd.plan("restart", fd.Schedule.edm(), 10, grid="karras", start=0.2, intervals=[(10.0, 20.0, 4, 3)])


@pytest.mark.parametrize(
    ("stochastic", "deterministic", "options"),
    [
        ("ddpm", "ddim", {}),
        ("euler_ancestral", "euler", {}),
        ("dpm_2_ancestral", "dpm_2", {}),
        ("dpmpp_2m_sde", "dpmpp_2m", {}),
        ("dpmpp_2m_sde", "dpmpp_2m", {"correction": "heun"}),
        ("dpmpp_3m_sde", "dpmpp_3m", {"correction": "heun"}),
        ("dpmpp_3m_sde", "dpmpp_3m_exact", {"exact": True, "correction": "midpoint"}),
        ("seeds_2", "dpmpp_2s", {}),
        ("seeds_2", "dpmpp_2s", {"correction": "heun", "r1": 0.7}),
        ("seeds_3", "dpmpp_3s", {}),
    ],
)
@pytest.mark.parametrize("schedule", ["vp", "edm"])
def test_eta_0_leaves_the_deterministic_solver(stochastic, deterministic, options, schedule):
    level = {"coordinate": "sigma"} if deterministic == "dpm_2" else {}  # where ancestral steps are taken
    ode = fd.plan(deterministic, SCHEDULES[schedule], 20, grid="karras", **options, **level)
    sde = fd.plan(stochastic, SCHEDULES[schedule], 20, grid="karras", eta=0.0, **options)
    assert not sde.stochastic
    x = np.array([1.3, -0.8, 0.6, 1.1]) * ode.init_scale
    np.testing.assert_allclose(run_rows(sde, DATA.x0, x), run_rows(ode, DATA.x0, x), rtol=1e-10)


@pytest.mark.parametrize("r", [0.3, 0.5, 0.8])
def test_dpmpp_sdes_two_noises_together_weigh_what_one_ancestral_step_adds(r):
    schedule = SCHEDULES["vp"]
    plan = fd.plan("dpmpp_sde", schedule, 7, grid="logsnr", r=r, final_sigma="sigma_min")
    for i in range(0, plan.nfe, 2):
        first, second, (alpha, sigma) = *plan.rows[i : i + 2], plan.point_after(i + 1)
        (early, stage_weight), (same, w1), (late, w2) = *first.x.noise, *second.x.noise
        assert early == same
        assert late == early + 1
        ratio = first.alpha * sigma / (alpha * first.sigma)
        assert w1**2 + w2**2 == pytest.approx(sigma**2 * (1 - ratio**2), rel=1e-12)
        middle = first.alpha * second.sigma / (second.alpha * first.sigma)
        assert stage_weight**2 == pytest.approx(second.sigma**2 * (1 - middle**2), rel=1e-12)
        levels = [s / a for a, s in ((first.alpha, first.sigma), (second.alpha, second.sigma), (alpha, sigma))]
        share = (levels[0] - levels[1]) / (levels[0] - levels[2])
        assert w1**2 / (w1**2 + w2**2) == pytest.approx(share, rel=1e-12)


def test_noise_scale_multiplies_the_fresh_noise_only():
    plain, louder = (fd.plan("euler_ancestral", SCHEDULES["edm"], 5, s_noise=s) for s in (1.0, 1.1))
    np.testing.assert_allclose(louder.table["xi_a"], 1.1 * plain.table["xi_a"], rtol=1e-15)
    for field in ("p_x", "p_m", "a_x", "A"):
        np.testing.assert_array_equal(louder.table[field], plain.table[field])
