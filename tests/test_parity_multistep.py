"""The linear multistep families against diffusers' and k-diffusion's, in float64 where the peer allows it."""

import math

import diffusers
import numpy as np
import pytest
import torch
from peers import (
    BETAS,
    SEEDS,
    STEPS,
    VP,
    difference,
    diffusers_loop,
    indexed,
    inject_noise,
    network,
    path_noise,
    start_noise,
)

import fastdiff as fd
from fastdiff.plans.grid import make_grid
from fastdiff.plans.schedule import CosineVP

ROUNDING, SINGLE, SINGLE_TABLES = 1e-12, 3e-6, 5e-5
SIGMAS = np.sqrt((1 - VP.alphas_cumprod) / VP.alphas_cumprod)
EDM = fd.Schedule.edm(sigma_min=0.1, sigma_max=80.0)
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:.*is deprecated:FutureWarning")


def scheduler(kind: type, n: int, prediction: str, **options: object) -> object:
    made = kind(trained_betas=BETAS.tolist(), prediction_type=prediction, **options)
    made.set_timesteps(n)
    made.alphas_cumprod = torch.from_numpy(VP.alphas_cumprod)
    made.final_alpha_cumprod = torch.tensor(1.0, dtype=torch.float64)
    return made


def ours(solver: str, times: np.ndarray, prediction: str, **options: object) -> torch.Tensor:
    plan = fd.plan(solver, VP, grid=np.asarray(times, dtype=np.float64), prediction=prediction, **options)
    return fd.sample(indexed, plan, start_noise(), seeds=SEEDS)


@pytest.mark.parametrize("n", STEPS)
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_deis_in_log_rho(order, prediction, n):
    peer = scheduler(diffusers.DEISMultistepScheduler, n, prediction, solver_order=order)
    times = [*peer.timesteps.numpy(), 0]
    peer.sigmas = torch.from_numpy(SIGMAS[times])
    ran = ours("deis_log_rho", times, prediction, order=min(order, n), final_sigma="sigma_min")
    # The peer's primitives of log polynomials cancel: short steps lose digits.
    assert difference(ran, diffusers_loop(peer, indexed, start_noise())) < 1e-9


@pytest.mark.parametrize("n", STEPS)
def test_plms(n):
    """Of v predictions the peer mixes v, not eps as the paper does."""
    peer = scheduler(diffusers.PNDMScheduler, n, "epsilon", skip_prk_steps=True, set_alpha_to_one=True)
    times = sorted(set(peer.timesteps.tolist()), reverse=True)
    assert difference(ours("plms", times, "epsilon"), diffusers_loop(peer, indexed, start_noise())) < ROUNDING


@pytest.mark.parametrize("n", [4, 5, 10, 20, 50, 60])
def test_pndm_with_its_runge_kutta_start(n):
    """Step counts that leave an even number of training indices a step: else the peer's middles are an index off."""
    peer = scheduler(diffusers.PNDMScheduler, n, "epsilon", set_alpha_to_one=True)
    times = np.arange(n)[::-1] * (1000 // n)
    assert len(peer.timesteps) == n + 9
    assert difference(ours("pndm", times, "epsilon"), diffusers_loop(peer, indexed, start_noise())) < ROUNDING


@pytest.mark.parametrize("n", STEPS[1:])
def test_ipndm_on_its_peers_own_schedule(n):
    """The peer has alpha^2 = 1 - beta^2 and calls the angle over pi / 2 its time; it divides alpha = 0 by 1e-8."""
    peer = diffusers.IPNDMScheduler()
    peer.set_timesteps(n)
    betas, alphas = (v.double().numpy() for v in (peer.betas, peer.alphas))
    first = int(alphas[0] == 0)
    levels = betas[first:] / alphas[first:]
    schedule = CosineVP(offset=0.0, t_min=1e-6, t_max=1.0)  # its levels go below the usual one
    plan = fd.plan("ipndm", schedule, sigmas=levels, prediction="v_prediction", lower_order_final=False)
    peer.timesteps = peer.timesteps[first:]
    peer.set_begin_index(first)
    peer.betas, peer.alphas = peer.betas.double(), peer.alphas.double()
    theirs = diffusers_loop(peer, network, start_noise())
    assert difference(fd.sample(network, plan, start_noise()), theirs) < SINGLE_TABLES


@pytest.mark.parametrize("n", STEPS)
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_lms_in_the_noise_level(prediction, n):
    peer = scheduler(diffusers.LMSDiscreteScheduler, n, prediction, timestep_spacing="trailing")
    times = peer.timesteps.double().numpy()
    theirs = diffusers_loop(peer, indexed, start_noise() * np.hypot(SIGMAS[int(times[0])], 1))
    assert difference(ours("lms", times, prediction), theirs) < SINGLE_TABLES


@pytest.mark.parametrize("n", [2, 3, 5, 10, 20, 60])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("orders", [(1, 1), (2, 2), (3, 4), (1, 3), (3, 2)])
def test_sa_solver(orders, prediction, n, monkeypatch):
    """tau 1 in the middle of the way, 0 at the ends, as the peer has it where nothing is given."""
    predictor, corrector = orders
    options = {"predictor_order": predictor, "corrector_order": corrector}
    peer = scheduler(diffusers.SASolverScheduler, n, prediction, **options)
    inject_noise(monkeypatch, peer, n)
    times = [*peer.timesteps.numpy(), 0]
    peer.sigmas = torch.from_numpy(SIGMAS[times])
    theirs = diffusers_loop(peer, indexed, start_noise())
    ran = ours(
        "sa_solver", times, prediction, tau=lambda t: float(200 <= t <= 800), final_sigma="sigma_min", simple=True,
        max_ratio=math.inf, **options,
    )  # fmt: skip
    # The peer expands its integrals in powers of lambda: orders above 2 lose digits by cancellation.
    assert difference(ran, theirs) < (1e-11 if max(orders) < 3 else 1e-5)


def denoise(x, sigma):
    c = (1 + sigma**2) ** -0.5
    return network(x * c.view(-1, 1), c)


@pytest.mark.parametrize("order", [1, 2, 3, 4, 6])
def test_lms_equals_k_diffusion_for_every_number_of_steps(order, k_diffusion):
    """The peer integrates by adaptive quadrature, which is exact for polynomials too."""
    for n in range(1, 61):
        plan = fd.plan("lms", EDM, n, grid="karras", prediction="sample", order=min(order, n))
        sigmas = torch.tensor([*EDM.sigma(make_grid(EDM, n, "karras").t)])
        theirs = k_diffusion.sample_lms(denoise, start_noise() * 80.0, sigmas, disable=True, order=order)
        assert difference(fd.sample(denoise, plan, start_noise()), theirs) < 1e-10, n


@pytest.mark.parametrize("solver", ["euler", "heun", "dpm_2"])
@pytest.mark.parametrize("churn", [{"s_churn": 5.0}, {"s_churn": 40.0, "s_tmin": 0.3, "s_tmax": 70.0, "s_noise": 1.01}])
def test_churn_equals_k_diffusion_from_the_second_step_on(solver, churn, monkeypatch, k_diffusion):
    """A churn of the first step is a start at its level: the peer gets that start, and its first noise is none."""
    for n in (1, 2, 3, 7, 20, 60):
        plan = fd.plan(solver, EDM, n, grid="karras", prediction="sample", **churn)
        sigmas = torch.tensor([*EDM.sigma(make_grid(EDM, n, "karras").t)])
        noises = iter([torch.zeros(2, 5, dtype=torch.float64), *(path_noise(i) for i in range(1, n))])
        monkeypatch.setattr(k_diffusion.torch, "randn_like", lambda x, noises=noises: next(noises))
        theirs = getattr(k_diffusion, f"sample_{solver}")(
            denoise, start_noise() * plan.init_scale, sigmas, disable=True, **churn
        )
        ran = fd.sample(denoise, plan, start_noise(), seeds=SEEDS)
        assert difference(ran, theirs) < 1e-10, n
