"""fastdiff's schedulers against diffusers' of the same name and configuration, with the same generators.

Differences are relative to the largest value of the run. In float32 diffusers subtracts numbers that are nearly equal,
or divides by an alpha or a sigma near 0, and loses up to four digits: what its formulas say is taken from float64.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence

import diffusers
import pytest
import torch
from in_double import in_double
from scheduler_loops import QUICK, LMSFromAnyStep, loop, with_variance
from scheduler_protocols import BROWNIAN, STANDARD

from fastdiff import schedulers

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-5, torch.float16: 5e-3, torch.bfloat16: 4e-2}
CHANCE = 6  # how far two roundings of one image may be apart in size; 3.1 is the most seen for N = 1..13
OPTIONS = {
    "PNDMScheduler": {"skip_prk_steps": True},
    "DPMSolverSDEScheduler": {"noise_sampler_seed": 4},
    "SASolverScheduler": {"algorithm_type": "noise_prediction"},  # the data form's weights double what halves round
    **QUICK,
}
STEPS = (1, 2, 3, 5, 10, 15, 20, 60)


def image(
    scheduler: object, n: int, dtype: torch.dtype, begin: int = 0, times: dict | None = None, **step: object
) -> tuple[torch.Tensor, float]:
    """(the image, the largest value on the way)."""
    scheduler.set_timesteps(n, **(times or {}))
    return loop(scheduler, dtype=dtype, begin=begin * scheduler.order, **step)


def peer_of(name: str) -> type:
    return LMSFromAnyStep if name == "LMSDiscreteScheduler" else getattr(diffusers, name)


def gap(found: tuple, exact: tuple) -> float:
    return float((found[0].double() - exact[0].double()).abs().max()) / exact[1]


def same_times(mine: object, peer: object, rounding: float) -> bool:
    """The very same; but in float32 diffusers rounds the middles of KDPM2's ancestral steps, which are exact here."""
    if isinstance(mine, schedulers.KDPM2AncestralDiscreteScheduler):
        return torch.allclose(mine.timesteps, peer.timesteps, rtol=0.0, atol=rounding)
    return torch.equal(mine.timesteps, peer.timesteps)


def agree(name: str, options: dict, steps: Sequence[int], begins: Sequence[int] = (0,), **how: object) -> None:
    """In float64 to rounding; and fastdiff's float32 is as near to that as 1e-5, or about as diffusers' float32 is."""
    doubts = {}
    with in_double():
        mine, peer = getattr(schedulers, name)(**options), peer_of(name)(**options)
        for n, begin in itertools.product(steps, begins):
            exact = image(peer, n, torch.float64, begin, **how)
            ours = image(mine, n, torch.float64, begin, **how)
            assert gap(ours, exact) <= TOLERANCE[torch.float64], (options, n, begin, how)
            assert same_times(mine, peer, 1e-5)
            error = gap(image(mine, n, torch.float32, begin, **how), exact)
            if error > TOLERANCE[torch.float32] and name not in BROWNIAN:  # their noise depends on the dtype
                doubts[n, begin] = error, exact
    peer = peer_of(name)(**options) if doubts else None
    for (n, begin), (error, exact) in doubts.items():
        rounded = image(peer, n, torch.float32, begin, **how)
        assert error <= CHANCE * gap(rounded, exact), (options, n, begin, how)


def agree_as_they_are(name: str, options: dict, n: int, dtype: torch.dtype) -> None:
    """Both in the model's dtype, with the sigmas that diffusers rounds to float32."""
    mine, peer = (getattr(library, name)(**options) for library in (schedulers, diffusers))
    ours, theirs = image(mine, n, dtype), image(peer, n, dtype)
    assert same_times(mine, peer, 5e-3)
    assert ours[0].dtype == theirs[0].dtype
    assert gap(ours, theirs) <= TOLERANCE[dtype], (options, n)


def some(*steps: int, most: int = 0) -> list[int]:
    return [*(steps or STEPS), random.randint(4, most or (20 if steps else 60))]


def each(*choices: list[dict]) -> list[dict]:
    """Every combination of one of each."""
    return [{k: v for options in found for k, v in options.items()} for found in itertools.product(*choices)]


EPSILON, V = {"prediction_type": "epsilon"}, {"prediction_type": "v_prediction"}
PREDICTIONS = [EPSILON, {"prediction_type": "sample"}, V]
SPACINGS = [{"timestep_spacing": "trailing"}, {"timestep_spacing": "leading", "steps_offset": 1}]
SIGMAS = [{f"use_{kind}_sigmas": True} for kind in ("karras", "exponential", "beta")]
FLOW = {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": 3.0}
ORDERS = [{"solver_order": order} for order in (1, 2, 3)]
CORRECTIONS = [{"solver_type": name} for name in ("midpoint", "heun")]
THRESHOLD = {"thresholding": True, "sample_max_value": 1.5}


def dpm_solvers(*algorithms: str) -> list[dict]:
    """diffusers is wrong in order 3 of the SDEs: see test_schedulers_deviations."""
    found = each([{"algorithm_type": algorithm} for algorithm in algorithms], ORDERS, CORRECTIONS)
    return [o for o in found if not (o["algorithm_type"].startswith("sde") and o["solver_order"] == 3)]


# What a solver does with the points of a run, and where these lie, are two things: options of the one are crossed with
# each other, not with those of the other.


@pytest.mark.parametrize("solver", dpm_solvers("dpmsolver++", "sde-dpmsolver++"), ids=str)
def test_dpm_solver_multistep(solver):
    agree("DPMSolverMultistepScheduler", solver, some())
    for options in [FLOW, THRESHOLD, {"lower_order_final": False}]:
        agree("DPMSolverMultistepScheduler", {**solver, **options}, some(2, 15))
    last = {"euler_at_final": True, "final_sigmas_type": "sigma_min"}
    agree("DPMSolverMultistepScheduler", {**solver, **last}, some(2, 15))


@pytest.mark.parametrize("algorithm", ["dpmsolver++", "sde-dpmsolver++"])
def test_dpm_solver_multistep_on_every_grid(algorithm):
    clipped = {"beta_schedule": "squaredcos_cap_v2", "lambda_min_clipped": -5.1}
    for options in [*PREDICTIONS[1:], *SPACINGS, *SIGMAS, {"use_lu_lambdas": True}, clipped]:
        agree("DPMSolverMultistepScheduler", {"algorithm_type": algorithm, **options}, some(2, 15))


@pytest.mark.parametrize("solver", dpm_solvers("dpmsolver", "sde-dpmsolver"), ids=str)
def test_dpm_solver_multistep_in_noise_form(solver):
    """Down to sigma_min, which is all that diffusers knows."""
    solver = {**solver, "final_sigmas_type": "sigma_min"}
    for options in [EPSILON, THRESHOLD, {"euler_at_final": True}]:
        agree("DPMSolverMultistepScheduler", {**solver, **options}, some(2, 3, 20))
    if solver["solver_order"] == 2:
        for options in [*PREDICTIONS[1:], *SPACINGS]:
            agree("DPMSolverMultistepScheduler", {**solver, **options}, some(3))


@pytest.mark.parametrize("solver", dpm_solvers("dpmsolver++", "dpmsolver"), ids=str)
def test_dpm_solver_multistep_inverse(solver):
    agree("DPMSolverMultistepInverseScheduler", solver, some(3, 15, 20))
    for options in [V, SPACINGS[1]]:
        agree("DPMSolverMultistepInverseScheduler", {**solver, **options}, some(3))


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("algorithm", ["dpmsolver++", "sde-dpmsolver++", "dpmsolver"])
def test_dpm_solver_singlestep(algorithm, order):
    """Order 3 has a stage of its own in fastdiff where solver_type is midpoint: see test_schedulers_deviations."""
    for correction in CORRECTIONS:
        if order == 3 and (correction["solver_type"] == "midpoint" or algorithm.startswith("sde")):
            continue
        solver = {"algorithm_type": algorithm, "solver_order": order, **correction}
        solver["final_sigmas_type"] = "sigma_min" if algorithm == "dpmsolver" else "zero"
        agree("DPMSolverSinglestepScheduler", solver, some(1, 2, 3, 6, 15))
        for options in [*PREDICTIONS[1:], *([*SIGMAS[::2], THRESHOLD] if algorithm != "dpmsolver" else ())]:
            agree("DPMSolverSinglestepScheduler", {**solver, **options}, some(1, 6))


@pytest.mark.parametrize("order", [1, 2, 3])
def test_unipc(order):
    for options in [EPSILON, V, FLOW, THRESHOLD, {"disable_corrector": [0, 2]}]:
        agree("UniPCMultistepScheduler", {"solver_order": order, **options}, some(1, 2, 15))
    forms = each([{"solver_type": "bh1"}, {"solver_type": "bh2"}], [{}, {"predict_x0": False}])
    for options in [*forms, *each(PREDICTIONS[1:], [{"predict_x0": False}])]:
        options |= {"solver_order": order, "final_sigmas_type": "sigma_min"}
        agree("UniPCMultistepScheduler", options, some(3))
    for options in [PREDICTIONS[1], *SPACINGS, *SIGMAS] if order == 2 else ():
        agree("UniPCMultistepScheduler", options, some(2, 20))


@pytest.mark.parametrize("order", [1, 2, 3])
def test_deis(order):
    for options in [*PREDICTIONS, FLOW, THRESHOLD, *([*SPACINGS, *SIGMAS] if order == 2 else ())]:
        agree("DEISMultistepScheduler", {"solver_order": order, **options}, some(2, 3, 15))


@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("prediction", PREDICTIONS, ids=str)
def test_ddim(prediction, eta):
    bounds = [{"clip_sample": True}, {"clip_sample": False}, {"clip_sample_range": 2.0}, THRESHOLD]
    for options, reuse in itertools.product(bounds, (False, True)):
        agree("DDIMScheduler", {**prediction, **options}, some(2), eta=eta, use_clipped_model_output=reuse)
    for options in [*SPACINGS, {"set_alpha_to_one": False}]:
        agree("DDIMScheduler", {**prediction, **options}, some(20), eta=eta)


def test_ddim_from_zero_signal():
    for options in each([{"timestep_spacing": "trailing", **V}], [{"clip_sample": True}, {"clip_sample": False}]):
        agree("DDIMScheduler", {"rescale_betas_zero_snr": True, **options}, some())


def test_ddim_inverse():
    agree("DDIMInverseScheduler", {}, some())
    for options in [*each([EPSILON, V], [{"clip_sample": False}, SPACINGS[0]]), V]:
        agree("DDIMInverseScheduler", options, some(2, 20))


@pytest.mark.parametrize("variance", ["fixed_small", "fixed_small_log", "fixed_large"])
def test_ddpm(variance):
    bounds = [{"clip_sample": True}, {"clip_sample": False}, THRESHOLD]
    for options in [*each(PREDICTIONS, bounds), *SPACINGS]:
        agree("DDPMScheduler", {"variance_type": variance, **options}, some(1, 2))


@pytest.mark.parametrize("name", ["Euler", "EulerAncestral", "LMS"])
def test_one_evaluation_in_the_noise_level(name):
    predictions = [V] if name == "EulerAncestral" else PREDICTIONS[1:]
    grids = [*SPACINGS, *(SIGMAS if name != "EulerAncestral" else ())]
    grids += [{"final_sigmas_type": "sigma_min"}, {"interpolation_type": "log_linear"}] if name == "Euler" else []
    for options in [*predictions, *grids]:
        agree(f"{name}DiscreteScheduler", options, some(1, 2, most=12))
    order = {"order": 2} if name == "LMS" else {}
    agree(f"{name}DiscreteScheduler", {}, some(3, 10, most=20) if order else some(), **order)


@pytest.mark.parametrize("name", ["Heun", "KDPM2", "KDPM2Ancestral"])
def test_two_evaluations_in_the_noise_level(name):
    agree(f"{name}DiscreteScheduler", {}, some(1, 2, 3, most=20))
    for options in [SPACINGS[0], *SIGMAS[::2], V, *([{"clip_sample": True}] if name == "Heun" else [])]:
        agree(f"{name}DiscreteScheduler", {**QUICK["KDPM2DiscreteScheduler"], **options}, some(1, 2, 3, most=20))


def test_dpm_solver_sde():
    for options in [EPSILON, V, *SIGMAS]:
        agree("DPMSolverSDEScheduler", {"noise_sampler_seed": 4, **options}, [5])
    agree("DPMSolverSDEScheduler", {"noise_sampler_seed": 4}, [3], begins=[1], s_noise=0.7)


def test_edm():
    grids = [{"sigma_schedule": "exponential", "sigma_data": 0.7}, {"final_sigmas_type": "sigma_min"}]
    agree("EDMEulerScheduler", {}, some())
    for options in [V, *grids, {**V, **grids[0]}]:
        agree("EDMEulerScheduler", options, some(2, 20))
    for solver in dpm_solvers("dpmsolver++", "sde-dpmsolver++"):
        for options in [EPSILON, {**V, **grids[0]}, THRESHOLD]:
            agree("EDMDPMSolverMultistepScheduler", {**solver, **options}, some(2, 15))


def test_churn():
    churn = {"s_churn": 8.0, "s_tmin": 0.05, "s_tmax": 10.0, "s_noise": 1.1}
    for name in ("EulerDiscrete", "EDMEuler", "FlowMatchEulerDiscrete", "FlowMatchHeunDiscrete"):
        agree(f"{name}Scheduler", {}, some(2, 10), **churn)


@pytest.mark.parametrize("variance", ["learned", "learned_range"])
def test_learned_variances(variance):
    for options in [*each(PREDICTIONS, [{"clip_sample": False}]), {}, THRESHOLD]:
        agree("DDPMScheduler", {"variance_type": variance, **options}, some(1, 2), network=with_variance)
    for name in ("DPMSolverMultistep", "DPMSolverMultistepInverse", "DPMSolverSinglestep"):  # only split the output
        agree(f"{name}Scheduler", {"variance_type": variance}, some(5, 20), network=with_variance)


def test_flow_matching():
    agree("FlowMatchEulerDiscreteScheduler", {"shift": 3.0}, some())
    for options in [{}, *SIGMAS, {"stochastic_sampling": True}]:
        agree("FlowMatchEulerDiscreteScheduler", options, some(1, 15))
    options = {"use_dynamic_shifting": True, "shift_terminal": 0.02}
    agree("FlowMatchEulerDiscreteScheduler", options, some(2, 20), times={"mu": 0.7})
    agree("FlowMatchHeunDiscreteScheduler", {"shift": 3.0}, some(2, 20))


def test_distilled():
    for options in [*each(PREDICTIONS, [{}, {"clip_sample": True}]), {"set_alpha_to_one": False}]:
        agree("LCMScheduler", options, some(1, 2, 4, most=50))
        for eta in (0.0, 0.3, 1.0):
            agree("TCDScheduler", options, some(2, 4), eta=eta)


def test_pseudo_numerical():
    for options in [{}, {"set_alpha_to_one": True}, {"steps_offset": 1}, SPACINGS[0]]:
        agree("PNDMScheduler", {"skip_prk_steps": True, **options}, some(1, 2, 3, 20))
    agree("PNDMScheduler", {}, some(5, 20))
    agree("IPNDMScheduler", {}, some())


def test_cogvideox_ddim():
    for options in each(PREDICTIONS, [{}, {"timestep_spacing": "linspace"}, {"set_alpha_to_one": False}]):
        agree("CogVideoXDDIMScheduler", {**options, "snr_shift_scale": 2.0}, some(1, 7))
    no_signal = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing", **V}
    agree("CogVideoXDDIMScheduler", no_signal, some(1, 20), eta=0.5)


def test_parallel_steps_one_by_one():
    agree("DDIMParallelScheduler", {"clip_sample_range": 2.0, "set_alpha_to_one": False}, some(2, 20), eta=0.4)
    agree("DDPMParallelScheduler", {"timestep_spacing": "trailing", **THRESHOLD}, some(2, 20))
    agree("DDPMParallelScheduler", {"variance_type": "learned_range"}, some(2, most=20), network=with_variance)


@pytest.mark.parametrize("form", ["data_prediction", "noise_prediction"])
def test_sa_solver(form):
    """Thresholds in noise form and learned variances fail in diffusers: see test_schedulers_deviations_newer."""
    orders = [{"predictor_order": p, "corrector_order": c} for p, c in ((1, 1), (2, 2), (3, 4), (4, 1), (1, 3))]
    for options in each(orders, [{}, {"lower_order_final": False, **V}]):
        agree("SASolverScheduler", {"algorithm_type": form, **options}, [2, 10])
    only = [FLOW, THRESHOLD] if form == "data_prediction" else []
    for options in [{"prediction_type": "sample"}, *SPACINGS[1:], *SIGMAS, *only]:
        agree("SASolverScheduler", {"algorithm_type": form, **options}, some(1, most=12))


def test_cosine():
    grids = [{"sigma_schedule": "karras", "sigma_data": 0.6}, {"solver_order": 1}, {"lower_order_final": False}]
    agree("CosineDPMSolverMultistepScheduler", {}, [1, 6])
    for options in each([EPSILON], [*grids, {"solver_type": "heun", "euler_at_final": True}]):
        agree("CosineDPMSolverMultistepScheduler", options, [6])


@pytest.mark.parametrize("name", STANDARD)
def test_starts_in_the_middle(name):
    agree(name, OPTIONS.get(name, {}), [10], begins=(1, 2, 5))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", STANDARD)
def test_in_the_models_own_dtype(name, dtype):
    agree_as_they_are(name, OPTIONS.get(name, {}), 10, dtype)
