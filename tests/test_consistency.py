"""Models that map noise to data: LCM, TCD and consistency sampling against diffusers, and what theory says of them."""

import diffusers
import numpy as np
import pytest
import torch
from gaussian import DATA, SCHEDULES, run_rows
from peers import BETAS, SEEDS, VP, difference, diffusers_loop, indexed, inject_noise, network, start_noise

import fastdiff as fd

PREDICTIONS = ("epsilon", "sample", "v_prediction")
each_n = pytest.mark.parametrize("n", [1, 2, 3, 4, 8, 25, 50])


def scheduler(kind: type, n: int, prediction: str, **options: object) -> object:
    made = kind(trained_betas=BETAS.tolist(), prediction_type=prediction, clip_sample=False, **options)
    made.set_timesteps(n)
    made.alphas_cumprod = torch.from_numpy(VP.alphas_cumprod)
    return made


@each_n
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_lcm_with_its_boundary_condition(prediction, n, monkeypatch):
    peer = scheduler(diffusers.LCMScheduler, n, prediction)
    inject_noise(monkeypatch, peer, n)
    theirs = diffusers_loop(peer, indexed, start_noise())
    times = peer.timesteps.double().numpy()
    plan = fd.plan("lcm", VP, grid=times, prediction=prediction, timestep_scaling=10.0)
    # The peer's scalings are float32.
    assert difference(fd.sample(indexed, plan, start_noise(), seeds=SEEDS), theirs) < 1e-6


@each_n
@pytest.mark.parametrize("gamma", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_tcd_down_to_the_first_training_index(prediction, gamma, n, monkeypatch):
    peer = scheduler(diffusers.TCDScheduler, n, prediction)
    inject_noise(monkeypatch, peer, n)
    theirs = diffusers_loop(peer, indexed, start_noise(), eta=gamma)
    times = [*peer.timesteps.double().numpy(), 0.0]
    plan = fd.plan("tcd", VP, grid=times, prediction=prediction, gamma=gamma, final_sigma="sigma_min")
    assert difference(fd.sample(indexed, plan, start_noise(), seeds=SEEDS), theirs) < 1e-12


@each_n
def test_consistency_sampling_from_sigma_to_sigma(n, monkeypatch):
    peer = diffusers.CMStochasticIterativeScheduler(num_train_timesteps=60, clip_denoised=False)
    peer.set_timesteps(n)
    inject_noise(monkeypatch, peer, n)
    schedule = fd.Schedule.edm(peer.config.sigma_min, 80.0)
    levels = peer.sigmas.double().numpy()[:-1]

    def consistent(x, sigma):
        """The preconditioned network: the data, by the peer's c_skip and c_out."""
        inner = network(x / (sigma**2 + 0.25).sqrt()[:, None], sigma)
        c_skip, c_out = (c[:, None] for c in peer.get_scalings_for_boundary_condition(sigma))
        return c_out * inner + c_skip * x

    x, theirs = start_noise(), start_noise() * levels[0]
    for t, sigma in zip(peer.timesteps, levels, strict=True):
        m = network(peer.scale_model_input(theirs, t), torch.full((len(x),), sigma, dtype=torch.float64))
        theirs = peer.step(m, t, theirs, return_dict=False)[0]
    plan = fd.plan("consistency", schedule, sigmas=[*levels, 0.0], prediction="sample")
    assert difference(fd.sample(consistent, plan, x * levels[0] / plan.init_scale, seeds=SEEDS), theirs) < 1e-5


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize(("solver", "options"), [("lcm", {"noise_left": 0.0}), ("tcd", {"gamma": 1.0})])
def test_a_perfect_consistency_model_keeps_the_datas_law_at_any_number_of_steps(schedule, solver, options):
    """Its map is linear on Gaussian data: the variance is carried exactly, step by step."""
    for steps in (1, 2, 5):
        plan = fd.plan(solver, SCHEDULES[schedule], steps, grid="logsnr", prediction="sample", **options)
        variance = np.array([spread_of(plan, i) for i in range(4)])
        np.testing.assert_allclose(variance, DATA.variance, rtol=5e-2 if SCHEDULES[schedule].kind == "ve" else 1e-3)


def spread_of(plan: fd.Plan, component: int) -> float:
    """The variance of the result in one component, from its weights over x at the start and the noises."""
    width = 1 + plan.nfe
    first, *xi = np.eye(width)
    scale = DATA.variance[component] ** 0.5

    def end_of_flow(x, alpha, sigma):
        return x * scale / np.sqrt(DATA.spread(alpha, sigma)[component])

    weights = run_rows(plan, end_of_flow, first, noise=lambda j: xi[j - 1])
    return weights[0] ** 2 * DATA.spread(*plan.start)[component] + (weights[1:] ** 2).sum()


def test_tcd_without_noise_is_ddim_and_with_all_of_it_consistency_sampling():
    for gamma, other in ((0.0, "ddim"), (1.0, "lcm")):
        ours = fd.plan("tcd", fd.Schedule.vp(), 7, gamma=gamma)
        np.testing.assert_allclose(ours.table["A"], fd.plan(other, fd.Schedule.vp(), 7).table["A"], atol=1e-15)
        np.testing.assert_allclose(ours.table["xi_a"], fd.plan(other, fd.Schedule.vp(), 7).table["xi_a"], atol=1e-15)


def test_gamma_is_a_share():
    with pytest.raises(ValueError, match=r"gamma: expected a number in \[0, 1\], got 1.5"):
        fd.plan("tcd", VP, 4, gamma=1.5)


@pytest.mark.parametrize("times", [[1.5], [1.5, 1.1], [1.55, 1.2, 0.7, 0.2]], ids=str)
def test_scm_is_consistency_sampling_in_trigflow(times, monkeypatch):
    peer = diffusers.SCMScheduler(sigma_data=1.0)
    peer.set_timesteps(len(times), [*times, 0.0], max_timesteps=None, intermediate_timesteps=None)
    peer.timesteps = torch.tensor([*times, 0.0], dtype=torch.float64)
    inject_noise(monkeypatch, peer, len(times))
    theirs = start_noise()
    for t in peer.timesteps[:-1]:
        theirs = peer.step(network(theirs, t.expand(len(theirs))), t, theirs).prev_sample
    plan = fd.plan("SCMScheduler", fd.Schedule.trigflow(), grid=times, final_sigma="zero")
    assert plan.prediction == "v_prediction"
    assert difference(fd.sample(network, plan, start_noise(), seeds=SEEDS), theirs) < 1e-12
