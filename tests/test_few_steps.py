"""What solvers do in few steps: no method is to lose to a simpler one because a grid's steps are uneven."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from gaussian import Gaussian, run_rows
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from test_sde_moments import noise_count

import fastdiff as fd
from fastdiff.plans.grid import GRIDS

# Uniform times on EDM put nearly all steps where there is only noise: no solver can do anything in few of them.
NOT_MEANT = {("edm", "time")}
SCHEDULES = {
    "vp": fd.Schedule.vp(),
    "scaled_linear": fd.Schedule.scaled_linear(),
    "cosine": fd.Schedule.cosine(),
    "edm": fd.Schedule.edm(),
    "flow": fd.Schedule.flow(),
}
DATA = Gaussian(np.zeros(5), np.array([0.05, 0.2, 0.5, 1.0, 2.745]) ** 2)


def grids(schedule: str) -> list[str]:
    """Those that the schedule has."""
    discrete = SCHEDULES[schedule].num_train_timesteps is not None
    named = {"linspace": discrete, "leading": discrete, "trailing": discrete, "ays": discrete}
    return [grid for grid in GRIDS if named.get(grid, True) and (schedule, grid) not in NOT_MEANT]


def plans(solver: str, schedule: str, **options: object) -> list[fd.Plan]:
    return [
        fd.plan(solver, SCHEDULES[schedule], steps, grid=grid, prediction="sample", **options)
        for grid in grids(schedule)
        for steps in (5, 6, 8, 10, 15, 20)
    ]


def excess(plan: fd.Plan) -> float:
    """The most by which any component's standard deviation exceeds the data's, as a factor; exact, no sampling."""
    first, *xi = np.eye(1 + noise_count(plan))

    def x0(x: np.ndarray, alpha: float, sigma: float) -> np.ndarray:
        return DATA.x0(x.T, alpha, sigma).T

    start = np.tile(first * plan.init_scale, (len(DATA.variance), 1))
    x = run_rows(plan, x0, start, noise=lambda j: xi[j - 1])
    return float(np.sqrt((x**2).sum(1) / DATA.spread(*plan.end)).max())


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize(
    ("solver", "factor"),
    [
        ("sa_solver", 2.0),
        ("sa_solver_pece", 2.2),
        ("dpmpp_2m_sde", 1.4),
        ("er_sde", 1.1),
        ("dpmpp_2m", 1.3),
        ("unipc", 1.3),
    ],
)
def test_few_steps_do_not_blow_up_the_datas_spread(solver, factor, schedule):
    assert max(map(excess, plans(solver, schedule))) < factor


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_published_short_weights_of_sa_solver_do(schedule):
    """Why they are not the default."""
    assert max(map(excess, plans("sa_solver", schedule, simple=True, max_ratio=math.inf))) > 2.9


def error(solver: str, schedule: fd.Schedule, grid: np.ndarray, final_sigma: str, **options: object) -> float:
    """Of the run from one sigma of noise, against the exact flow."""
    plan = fd.plan(solver, schedule, grid=grid, final_sigma=final_sigma, prediction="sample", **options)
    x = np.full(5, plan.init_scale)
    exact = DATA.flow(x, plan.start)(*plan.end)
    return float(np.sqrt(np.mean((run_rows(plan, DATA.x0, x) - exact) ** 2)))


UNEVEN = {"flow": fd.Schedule.flow(), "shifted flow": fd.Schedule.flow(shift=3.0), "vp": fd.Schedule.vp()}


@pytest.mark.parametrize("final_sigma", ["zero", "sigma_min"])
@pytest.mark.parametrize("schedule", UNEVEN)
@pytest.mark.parametrize("solver", ["dpmpp_2m", "dpmpp_3m", "dpmpp_3m_exact", "unipc", "res_multistep"])
def test_uniform_times_down_to_the_least_noise_gain_from_more_steps_and_from_a_second_order(
    solver, schedule, final_sigma
):
    """The last of these steps is many times as long in lambda as the one before."""

    def of(solver: str, steps: int, **options: object) -> float:
        times = UNEVEN[schedule].shift_time(np.linspace(1.0, 1e-3, steps))
        return error(solver, UNEVEN[schedule], times, final_sigma, **options)

    counts = (5, 7, 10, 14, 20, 28, 40)
    errors = [of(solver, n) for n in counts]
    assert all(later < 1.2 * before for before, later in pairwise(errors))
    assert all(e < 1.1 * of("ddim", n) for e, n in zip(errors, counts, strict=True))


@given(
    lengths=st.lists(st.floats(0.2, 3.0), min_size=3, max_size=12),
    schedule=st.sampled_from(list(SCHEDULES)),
    solver=st.sampled_from(["dpmpp_2m", "dpmpp_3m_exact", "unipc", "dpm_solver_2m", "dpmpp_2m_sde", "sa_solver"]),
)
@settings(max_examples=40)
def test_step_far_longer_than_the_one_before_is_of_first_order(lengths, schedule, solver):
    """On every grid: it reads the newest output alone, and of no other step is anything changed."""
    assume(all(abs(there / here - 2.5) > 1e-6 for here, there in pairwise(lengths)))  # rounding decides between them
    kind = SCHEDULES[schedule]
    first, last = max(float(kind.log_snr(kind.t_max)), -4.0), float(kind.log_snr(kind.t_min))
    log_snr = first + np.append(0.0, np.cumsum(lengths)) * min(1.0, 0.999 * (last - first) / sum(lengths))
    levels = kind.coordinate(kind.at_log_snr(log_snr))
    options = {"sigmas": levels, "prediction": "sample"}
    ours, published = (fd.plan(solver, kind, **options, **more) for more in ({}, {"max_ratio": math.inf}))
    for i, (row, before) in enumerate(zip(ours.rows, published.rows, strict=True)):
        long = [j for j in (i - 1, i) if j > 0 and lengths[j] > 2.5 * lengths[j - 1]]
        if i in long and solver != "unipc" and solver != "sa_solver":
            assert len(np.trim_zeros(row.x.history, "b")) == 1
        if not long:
            assert row == before
