"""Jumps back and renoising: plans that add noise of their own, for masks and observations."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gaussian import DATA, SCHEDULES, Gaussian, run_rows

import fastdiff as fd


def variance(plan: fd.Plan, data: Gaussian) -> np.ndarray:
    """What a run on centred Gaussian data ends with: the sum of the squares of what each unit noise contributes."""
    indices = np.array((0, *sorted({j for row in plan.rows for j, _ in row.x.noise})))[:, None]
    start = np.where(indices == 0, plan.init_scale, np.zeros_like(data.variance))  # [noises, D], one unit noise each
    return (run_rows(plan, data.x0, start, noise=lambda j: np.float64(indices == j)) ** 2).sum(0)


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
@pytest.mark.parametrize("solver", ["dpm_solver_2m", "dpmpp_2m_sde"])
def test_jumps_leave_the_law_of_the_data(schedule, solver):
    data = Gaussian(np.zeros(4), DATA.variance)
    plan = fd.plan(solver, schedule, 200, grid="logsnr", prediction="sample", jumps=(20, 3))
    assert np.allclose(variance(plan, data), data.variance, rtol=0.05)


def test_a_run_takes_each_stretch_so_many_times():
    schedule = fd.Schedule.vp()
    plain, plan = (fd.plan("ddim", schedule, 10, jumps=jumps) for jumps in (None, (4, 3)))
    times = [row.t for row in plain.rows]
    assert [row.t for row in plan.rows] == times[:4] * 3 + times[4:8] * 3 + times[8:] * 3
    assert fd.plan("ddim", schedule, 10, jumps=(4, 1)).rows == plain.rows
    noises = [j for row in plan.rows for j, _ in row.x.noise]
    assert len(noises) == len(set(noises)) == 6


def test_a_renoised_step_is_the_noised_x0():
    schedule = fd.Schedule.edm()
    for row, after in zip(
        *(fd.plan("renoise", schedule, 5, prediction="sample").rows[k:] for k in (0, 1)), strict=False
    ):
        assert row.x.x == 0
        assert row.x.history == (after.alpha,)
        assert row.x.noise[0][1] == after.sigma


def test_repaint_brings_the_unknown_part_in_line_with_the_known():
    """Without jumps the unknown half of two equal numbers is drawn before it has seen the known one."""
    schedule = fd.Schedule.edm(0.002, 20.0)
    both = torch.tensor([[1.0, 0.999], [0.999, 1.0]], dtype=torch.float64)

    def model(x, t):
        return x @ (both @ torch.linalg.inv(both + t[0] ** 2 * torch.eye(2, dtype=torch.float64))).T

    known = torch.tensor([[1.5, 0.0]], dtype=torch.float64).expand(400, 2)
    noise = fd.noise.randn((400, 2), range(400), dtype=torch.float64)
    mask = torch.tensor([0.0, 1.0], dtype=torch.float64)

    def miss(jumps):
        plan = fd.plan("ddim", schedule, 20, grid="karras", prediction="sample", eta=1.0, jumps=jumps)
        x = fd.sample(model, plan, noise, image=known, mask=mask, seeds=range(400))
        return float((x[:, 1] - 1.5).square().mean().sqrt())

    assert miss((5, 6)) < 0.5 * miss(None)


@pytest.mark.parametrize("jumps", [(0, 2), (3, 0), (20, 2), (2.5, 2), (2,), 4, (True, 2)])
def test_jumps_that_are_none_are_refused_by_name(jumps):
    with pytest.raises(ValueError, match="jumps"):
        fd.plan("ddim", fd.Schedule.vp(), 10, jumps=jumps)


def test_jumps_go_with_a_named_solver_towards_data():
    with pytest.raises(ValueError, match="jumps"):
        fd.plan(None, fd.Schedule.vp(), 10, jumps=(2, 2))
    with pytest.raises(ValueError, match="jumps"):
        fd.plan("ddim", fd.Schedule.vp(), 10, jumps=(2, 2), invert=True)
