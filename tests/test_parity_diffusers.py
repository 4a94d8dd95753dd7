"""fastdiff.sample against diffusers' schedulers, at the same times, with the same noise, in float64.

The peers' tables are float32. Where a scheduler keeps the caller's precision, its table is replaced by the same table
in float64, and only rounding differs; where it casts the sample or its noise levels to float32, a few times 6e-8.
"""

import math

import diffusers
import numpy as np
import pytest
import torch
from peers import BETAS, SEEDS, STEPS, VP, difference, diffusers_loop, indexed, inject_noise, network, start_noise

import fastdiff as fd

ROUNDING, SINGLE, SINGLE_TABLES = 1e-12, 3e-6, 5e-5
PREDICTIONS = ("epsilon", "sample", "v_prediction")
SIGMAS = np.sqrt((1 - VP.alphas_cumprod) / VP.alphas_cumprod)
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:.*is deprecated:FutureWarning")
each_n = pytest.mark.parametrize("n", STEPS)
# Every number of steps with one prediction; the others say nothing else at another number of steps.
CASES = [("epsilon", n) for n in STEPS] + [(p, n) for p in PREDICTIONS[1:] for n in (1, 3, 14)]
each_case = pytest.mark.parametrize(("prediction", "n"), CASES)


def scheduler(kind: type, n: int, prediction: str, **options: object) -> object:
    """Stable Diffusion's schedule, its tables in float64 where the scheduler can use them."""
    made = kind(trained_betas=BETAS.tolist(), prediction_type=prediction, **options)
    made.set_timesteps(n)
    made.alphas_cumprod = torch.from_numpy(VP.alphas_cumprod)
    made.final_alpha_cumprod = made.one = torch.tensor(1.0, dtype=torch.float64)
    if isinstance(made, (diffusers.DPMSolverMultistepScheduler, diffusers.UniPCMultistepScheduler)):
        last = 0.0 if made.config.final_sigmas_type == "zero" else SIGMAS[0]
        made.sigmas = torch.tensor([*SIGMAS[made.timesteps.numpy()], last])
    return made


def ours(solver: str, times: np.ndarray, prediction: str, **options: object) -> torch.Tensor:
    plan = fd.plan(solver, VP, grid=np.asarray(times, dtype=np.float64), prediction=prediction, **options)
    return fd.sample(indexed, plan, start_noise(), seeds=SEEDS)


@each_case
@pytest.mark.parametrize(("kind", "eta"), [("DDIM", 0.0), ("DDIM", 1.0), ("DDIM", 0.4), ("DDPM", 1.0)])
def test_ddim_and_ddpm(kind, eta, prediction, n, monkeypatch):
    peer = scheduler(getattr(diffusers, f"{kind}Scheduler"), n, prediction, clip_sample=False)
    inject_noise(monkeypatch, peer, n)
    theirs = diffusers_loop(peer, indexed, start_noise(), **({"eta": eta} if kind == "DDIM" else {}))
    assert difference(ours(kind.lower(), peer.timesteps, prediction, eta=eta), theirs) < ROUNDING


@each_case
@pytest.mark.parametrize("correction", ["midpoint", "heun"])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_multistep_dpm_solver_pp_down_to_zero_noise(order, correction, prediction, n):
    peer = scheduler(diffusers.DPMSolverMultistepScheduler, n, prediction, solver_order=order, solver_type=correction)
    ran = ours("dpmpp_3m", peer.timesteps, prediction, order=min(order, n), correction=correction)
    assert difference(ran, diffusers_loop(peer, indexed, start_noise())) < SINGLE


@each_case
@pytest.mark.parametrize("correction", ["midpoint", "heun"])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_multistep_dpm_solver_down_to_sigma_min(order, correction, prediction, n):
    peer = scheduler(
        diffusers.DPMSolverMultistepScheduler, n, prediction, solver_order=order, solver_type=correction,
        algorithm_type="dpmsolver", final_sigmas_type="sigma_min",
    )  # fmt: skip
    ran = ours(
        "dpm_solver_3m", [*peer.timesteps, 0], prediction, order=min(order, n), correction=correction,
        final_sigma="sigma_min", max_ratio=math.inf,
    )  # fmt: skip
    assert difference(ran, diffusers_loop(peer, indexed, start_noise())) < SINGLE


@each_case
@pytest.mark.parametrize("correction", ["midpoint", "heun"])
@pytest.mark.parametrize("order", [1, 2])
def test_multistep_sde_dpm_solver_pp(order, correction, prediction, n, monkeypatch):
    peer = scheduler(
        diffusers.DPMSolverMultistepScheduler, n, prediction, solver_order=order, solver_type=correction,
        algorithm_type="sde-dpmsolver++",
    )  # fmt: skip
    inject_noise(monkeypatch, peer, n)
    theirs = diffusers_loop(peer, indexed, start_noise())
    ran = ours("dpmpp_2m_sde", peer.timesteps, prediction, order=min(order, n), correction=correction)
    assert difference(ran, theirs) < SINGLE


def test_order_3_sde_is_right_here_and_wrong_in_diffusers():
    """diffusers weighs D2 by psi_3(2h) - 1. With x0 = lambda^2 and no noise the mean is known: see test_exactness."""

    def squared(x, t):
        log_snr = torch.as_tensor(VP.log_snr(np.asarray(t, dtype=np.float64)))
        return (log_snr.reshape(-1, 1) ** 2).expand(x.shape)

    n = 40
    options = {"solver_order": 3, "algorithm_type": "sde-dpmsolver++", "final_sigmas_type": "sigma_min"}
    peer = scheduler(diffusers.DPMSolverMultistepScheduler, n, "sample", **options)
    silence = torch.zeros(2, 5, dtype=torch.float64)
    theirs = diffusers_loop(peer, squared, start_noise(), variance_noise=silence)
    options = {"grid": [*peer.timesteps.numpy(), 0], "prediction": "sample", "s_noise": 0.0, "final_sigma": "sigma_min"}
    options["max_ratio"] = math.inf
    plan, third_order = (fd.plan("dpmpp_3m_sde", VP, exact=exact, **options) for exact in (False, True))
    (a_s, s_s), (a_t, s_t) = plan.start, plan.end
    l_s, l_t = np.log(a_s / s_s), np.log(a_t / s_t)
    settled_s, settled_t = (value**2 - value + 0.5 for value in (l_s, l_t))
    decay = s_t / s_s * np.exp(-(l_t - l_s))
    exact = decay * (start_noise() - a_s * settled_s) + a_t * settled_t
    assert difference(fd.sample(squared, third_order, start_noise(), seeds=SEEDS), exact) < 1e-6
    assert difference(fd.sample(squared, plan, start_noise(), seeds=SEEDS), exact) < 0.1
    assert difference(theirs, exact) > 0.3


@each_case
@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize(("variant", "form"), [("bh1", "data"), ("bh2", "data"), ("bh1", "noise"), ("bh2", "noise")])
def test_unipc_down_to_sigma_min(variant, form, order, prediction, n):
    peer = scheduler(
        diffusers.UniPCMultistepScheduler, n, prediction, solver_order=order, solver_type=variant,
        predict_x0=form == "data", final_sigmas_type="sigma_min",
    )  # fmt: skip
    ran = ours(
        "unipc", [*peer.timesteps, 0], prediction, order=min(order, n), variant=variant, form=form,
        final_sigma="sigma_min",
    )  # fmt: skip
    assert difference(ran, diffusers_loop(peer, indexed, start_noise())) < ROUNDING


@each_case
@pytest.mark.parametrize("order", [1, 2, 3])
def test_unipc_down_to_zero_noise(order, prediction, n):
    """bh2 only: with bh1 the peer multiplies 0 by B(inf) = inf, and its images are NaN."""
    peer = scheduler(diffusers.UniPCMultistepScheduler, n, prediction, solver_order=order)
    ran = ours("unipc", peer.timesteps, prediction, order=min(order, n))
    assert difference(ran, diffusers_loop(peer, indexed, start_noise())) < ROUNDING


@pytest.mark.parametrize(
    ("kind", "solver", "prediction", "n"),
    [
        (kind, solver, prediction, n)
        for kind, solver in {
            "Euler": "euler",
            "EulerAncestral": "euler_ancestral",
            "Heun": "heun",
            "KDPM2": "dpm_2",
            "KDPM2Ancestral": "dpm_2_ancestral",
        }.items()
        for prediction, n in CASES
        if prediction != "sample" or kind == "Euler"  # the others raise NotImplementedError for it
    ],
)
def test_samplers_in_the_noise_level(kind, solver, prediction, n, monkeypatch):
    """The peer's x is ours over alpha; its noise levels and its middle times are float32 throughout."""
    peer = scheduler(getattr(diffusers, f"{kind}DiscreteScheduler"), n, prediction, timestep_spacing="trailing")
    if solver.endswith("ancestral"):
        inject_noise(monkeypatch, peer, n)
    times = peer.timesteps.double().numpy()
    times = {"heun": np.concatenate([times[:1], times[1::2]])}.get(solver, times[::2] if "dpm_2" in solver else times)
    theirs = diffusers_loop(peer, indexed, start_noise() * np.hypot(SIGMAS[int(times[0])], 1))
    options = {"coordinate": "sigma"} if solver in ("heun", "dpm_2") else {}
    assert difference(ours(solver, times, prediction, **options), theirs) < SINGLE_TABLES


@pytest.mark.parametrize("n", [1, 2, 3, 5, 10, 15, 20])
@pytest.mark.parametrize(("order", "correction"), [(1, "midpoint"), (2, "midpoint"), (2, "heun"), (3, "heun")])
@pytest.mark.parametrize(("solver", "algorithm"), [("dpmpp_3s", "dpmsolver++"), ("dpm_solver_3s", "dpmsolver")])
def test_singlestep_dpm_solver(solver, algorithm, order, correction, n):
    """The peer takes its stages from the grid: on a grid uniform in lambda they are the algorithm's 1/3, 1/2 and 2/3.

    Order 3 "midpoint" is left out: the peer's second stage is then a 2S midpoint step, not algorithm 5's.
    """
    peer = diffusers.DPMSolverSinglestepScheduler(
        trained_betas=BETAS.tolist(), solver_order=order, solver_type=correction, algorithm_type=algorithm,
        use_exponential_sigmas=True, final_sigmas_type="sigma_min", lower_order_final=False,
    )  # fmt: skip
    peer.set_timesteps(n * order)
    levels = np.geomspace(SIGMAS[-1], SIGMAS[0], n * order + 1)
    peer.sigmas = torch.from_numpy(levels)
    peer.timesteps = torch.from_numpy(VP.t_of_log_snr(-np.log(levels)))[:-1]
    plan = fd.plan(solver, VP, sigmas=levels[::order], order=order, correction=correction)
    theirs = diffusers_loop(peer, indexed, start_noise())
    assert difference(fd.sample(indexed, plan, start_noise()), theirs) < ROUNDING


@each_n
@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_flow_euler_and_heun(shift, n):
    schedule = fd.Schedule.flow(shift)
    peer = diffusers.FlowMatchEulerDiscreteScheduler(shift=shift)
    peer.set_timesteps(sigmas=np.linspace(1, 1 / n, n).tolist())
    plan = fd.plan("euler", schedule, n, prediction="flow_prediction")
    theirs = diffusers_loop(peer, indexed, start_noise())
    assert difference(fd.sample(network, plan, start_noise()), theirs) < SINGLE

    peer = diffusers.FlowMatchHeunDiscreteScheduler(shift=shift)
    peer.set_timesteps(n)
    times = peer.timesteps.double().numpy() / 1000
    times = np.concatenate([times[:1], times[1::2]])
    plan = fd.plan("heun", schedule, grid=times, prediction="flow_prediction", clean_end="euler")
    theirs = diffusers_loop(peer, indexed, start_noise())
    assert difference(fd.sample(network, plan, start_noise()), theirs) < SINGLE
