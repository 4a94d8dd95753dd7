"""Plans run from data to noise: they follow the same ODE, at the same order, and the way back undoes them."""

import dataclasses

import diffusers
import numpy as np
import pytest
import torch
from gaussian import DATA, SCHEDULES, run_rows, slope, smooth_levels
from peers import BETAS, VP, difference, diffusers_loop, indexed, start_noise
from test_order import TABLE

import fastdiff as fd

STEPS = (80, 113, 160, 226)
DETERMINISTIC = [entry.name for entry in fd.solvers() if not entry.stochastic]
ALL = {
    **SCHEDULES,
    "discrete": fd.Schedule.scaled_linear(),
    "cosine": fd.Schedule.cosine(None),
    "zero snr": fd.Schedule.scaled_linear().zero_terminal_snr(),
}


@pytest.mark.parametrize(("solver", "options", "exact_until"), TABLE)
def test_inverted_solver_converges_at_its_order_to_the_flow_towards_noise(solver, options, exact_until):
    claimed = next(entry.order for entry in fd.solvers() if entry.name == solver)
    errors = []
    for n in STEPS:
        plan = fd.plan(solver, ALL["vp"], sigmas=smooth_levels(ALL["vp"], n), invert=True, **options)
        alpha, sigma = plan.start
        x = alpha * DATA.mean + np.sqrt(DATA.spread(alpha, sigma)) * np.array([1.3, -0.8, 0.6, 1.1])
        exact = DATA.flow(x, plan.start)
        ran = run_rows(plan, DATA.x0, x, exact=exact, exact_until=exact_until)
        errors.append(np.abs(ran - exact(*plan.end)).max())
    assert slope(STEPS, errors) > claimed - 0.3


@pytest.mark.parametrize("schedule", ALL)
@pytest.mark.parametrize("solver", DETERMINISTIC)
def test_every_ode_solver_inverts_every_schedule_from_the_image_itself_with_finite_rows(solver, schedule):
    for steps in (1, 2, 3, 17):
        for final in ("zero", "sigma_min"):
            forward = fd.plan(solver, ALL[schedule], steps, prediction="flow_prediction", final_sigma=final)
            plan = fd.plan(solver, ALL[schedule], steps, prediction="flow_prediction", final_sigma=final, invert=True)
            assert plan.init_scale == 1
            assert (plan.start, plan.end) == (forward.end, forward.start)


@pytest.mark.parametrize("schedule", ["vp", "edm", "flow", "discrete"])
def test_there_and_back_again_returns_the_image_the_closer_the_more_steps(schedule):
    schedule = ALL[schedule]

    def model(x, t):
        alpha, sigma = (torch.as_tensor(f(t.numpy()))[:, None] for f in (schedule.alpha, schedule.sigma))
        mean, variance = torch.from_numpy(DATA.mean), torch.from_numpy(DATA.variance)
        centred = (x - alpha * mean) / (alpha**2 * variance + sigma**2)
        return sigma * centred - mean - alpha * variance * centred

    image = torch.from_numpy(DATA.mean + 1.4 * np.sqrt(DATA.variance)[None] * [[1.0, -1.0, 0.3, 0.8]])
    errors = []
    for steps in (40, 160):
        there, back = (
            fd.plan("dpmpp_2m", schedule, steps, grid="logsnr", prediction="flow_prediction", invert=inverted)
            for inverted in (True, False)
        )
        noise = fd.sample(model, there, image) / back.init_scale
        errors.append(float((fd.sample(model, back, noise) - image).abs().max()))
    assert errors[1] < 0.02
    assert errors[1] < errors[0] / 2


@pytest.mark.parametrize("n", [2, 5, 10, 50])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_ddim_inversion_equals_diffusers_where_the_model_is_told_the_time_it_goes_to(prediction, n):
    peer = diffusers.DDIMInverseScheduler(
        trained_betas=BETAS.tolist(), prediction_type=prediction, clip_sample=False, set_alpha_to_one=True
    )
    peer.set_timesteps(n)
    peer.alphas_cumprod = torch.from_numpy(VP.alphas_cumprod)
    peer.initial_alpha_cumprod = torch.tensor(1.0, dtype=torch.float64)
    times = peer.timesteps.numpy()[::-1].astype(np.float64)
    plan = fd.plan("ddim", VP, grid=times, prediction=prediction, invert=True)
    told = [*(row.t for row in plan.rows[1:]), times[0]]
    rows = tuple(dataclasses.replace(row, t=t) for row, t in zip(plan.rows, told, strict=True))
    ran = fd.sample(indexed, dataclasses.replace(plan, rows=rows), start_noise())
    assert difference(ran, diffusers_loop(peer, indexed, start_noise())) < 1e-12


def test_noise_cannot_be_inverted_nor_a_data_prediction_where_there_is_no_noise():
    for solver, options in (("ddpm", {}), ("ddim", {"eta": 0.5}), ("heun", {"s_churn": 1.0})):
        with pytest.raises(ValueError, match=f"invert: expected an ODE solver, got {solver} with noise"):
            fd.plan(solver, VP, 5, invert=True, **options)
    with pytest.raises(ValueError, match="sample says nothing about the noise where sigma = 0"):
        fd.plan("ddim", VP, 5, prediction="sample", invert=True)
    assert fd.plan("ddim", VP, 5, prediction="sample", final_sigma="sigma_min", invert=True).nfe == 5
