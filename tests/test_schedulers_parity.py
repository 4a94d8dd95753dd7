"""fastdiff's schedulers against diffusers' of the same name and configuration, with the same generators.

Differences are relative to the largest value of the run. LOOSE cases are those in which diffusers' own float32 loses
digits: it subtracts two numbers that are nearly equal, or divides by an alpha or a sigma near 0.
"""

from __future__ import annotations

import itertools
import random

import diffusers
import pytest
import torch
from scheduler_loops import loop

from fastdiff import schedulers

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]
TOLERANCE = {torch.float32: 1e-5, torch.float16: 5e-3, torch.bfloat16: 4e-2}
LOOSE = 5e-4
ALL = [name for name in schedulers.__all__ if name not in ("SchedulerMixin", "PlanScheduler")]
STEPS = (1, 2, 3, 5, 10, 15, 20, 60)


def agree(
    name: str,
    options: dict,
    n: int,
    *,
    dtype: torch.dtype = torch.float32,
    begin: int = 0,
    tolerance: float | None = None,
    times: dict | None = None,
    **step: object,
) -> None:
    results = []
    for library in (schedulers, diffusers):
        scheduler = getattr(library, name)(**options)
        scheduler.set_timesteps(n, **(times or {}))
        results.append((*loop(scheduler, dtype=dtype, begin=begin * scheduler.order, **step), scheduler))
    (ours, _, mine), (theirs, largest, peer) = results
    assert torch.equal(mine.timesteps, peer.timesteps)
    assert ours.dtype == theirs.dtype
    bound = largest * (tolerance or TOLERANCE[dtype])
    assert float((ours.double() - theirs.double()).abs().max()) <= bound, (options, n, step)


def some(*steps: int, most: int = 60) -> list[int]:
    return [*(steps or STEPS), random.SystemRandom().randint(5, most)]


def each(*choices: list[dict]) -> list[dict]:
    """Every combination of one of each."""
    return [{k: v for options in found for k, v in options.items()} for found in itertools.product(*choices)]


EPSILON, V = {"prediction_type": "epsilon"}, {"prediction_type": "v_prediction"}
PREDICTIONS = [EPSILON, {"prediction_type": "sample"}, V]
SPACINGS = [{}, {"timestep_spacing": "trailing"}, {"timestep_spacing": "leading", "steps_offset": 1}]
SIGMAS = [{"use_karras_sigmas": True}, {"use_exponential_sigmas": True}]
FLOW = {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": 3.0}
ORDERS = [{"solver_order": order} for order in (1, 2, 3)]
CORRECTIONS = [{"solver_type": name} for name in ("midpoint", "heun")]
THRESHOLD = {"thresholding": True, "sample_max_value": 1.5}


def dpm_solvers(*algorithms: str) -> list[dict]:
    """diffusers is wrong in order 3 of the SDEs: see test_schedulers_deviations."""
    found = each([{"algorithm_type": algorithm} for algorithm in algorithms], ORDERS, CORRECTIONS)
    return [o for o in found if not (o["algorithm_type"].startswith("sde") and o["solver_order"] == 3)]


@pytest.mark.parametrize("solver", dpm_solvers("dpmsolver++", "sde-dpmsolver++"), ids=str)
def test_dpm_solver_multistep(solver):
    for n in some():
        agree("DPMSolverMultistepScheduler", solver, n)
    for options in [
        *PREDICTIONS, *SPACINGS, *SIGMAS, FLOW, THRESHOLD,
        {"lower_order_final": False}, {"use_lu_lambdas": True},
        {"euler_at_final": True, "final_sigmas_type": "sigma_min"},
        {"beta_schedule": "squaredcos_cap_v2", "lambda_min_clipped": -5.1},
    ]:  # fmt: skip
        for n in some(2, 15):
            agree("DPMSolverMultistepScheduler", {**solver, **options}, n)


@pytest.mark.parametrize("solver", dpm_solvers("dpmsolver", "sde-dpmsolver"), ids=str)
def test_dpm_solver_multistep_in_noise_form(solver):
    """Down to sigma_min, which is all that diffusers knows, and in more steps than its float32 can be trusted with."""
    solver = {**solver, "final_sigmas_type": "sigma_min"}
    for options in [*PREDICTIONS, *SPACINGS, THRESHOLD, {"euler_at_final": True}]:
        for n in some(5, 20):
            agree("DPMSolverMultistepScheduler", {**solver, **options}, n)


@pytest.mark.parametrize("solver", dpm_solvers("dpmsolver++", "dpmsolver"), ids=str)
def test_dpm_solver_multistep_inverse(solver):
    for options in [EPSILON, V, {"timestep_spacing": "leading", "steps_offset": 1}]:
        for n in some(3, 15, 20):
            agree("DPMSolverMultistepInverseScheduler", {**solver, **options}, n, tolerance=4e-5)


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("algorithm", ["dpmsolver++", "sde-dpmsolver++", "dpmsolver"])
def test_dpm_solver_singlestep(algorithm, order):
    """Order 3 has a stage of its own in fastdiff where solver_type is midpoint: see test_schedulers_deviations."""
    for correction in CORRECTIONS:
        if order == 3 and (correction["solver_type"] == "midpoint" or algorithm.startswith("sde")):
            continue
        solver = {"algorithm_type": algorithm, "solver_order": order, **correction}
        solver["final_sigmas_type"] = "sigma_min" if algorithm == "dpmsolver" else "zero"
        for options in [*PREDICTIONS, *([{"use_karras_sigmas": True}, THRESHOLD] if algorithm != "dpmsolver" else ())]:
            for n in some(1, 2, 3, 6, 15):
                tolerance = LOOSE if algorithm == "dpmsolver" and n < 15 else None
                agree("DPMSolverSinglestepScheduler", {**solver, **options}, n, tolerance=tolerance)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_unipc(order):
    for options in [*PREDICTIONS, *SPACINGS, *SIGMAS, FLOW, THRESHOLD, {"disable_corrector": [0, 2]}]:
        for n in some(1, 2, 15):
            agree("UniPCMultistepScheduler", {"solver_order": order, **options}, n)
    for options in each([{"solver_type": "bh1"}, {"solver_type": "bh2"}], PREDICTIONS):
        options |= {"solver_order": order, "final_sigmas_type": "sigma_min"}
        for n in some(3, 20):
            agree("UniPCMultistepScheduler", options, n)
            agree("UniPCMultistepScheduler", {**options, "predict_x0": False}, n, tolerance=2 * LOOSE)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_deis(order):
    for options in [*PREDICTIONS, *SPACINGS, *SIGMAS, THRESHOLD]:
        for n in some(2, 3, 14, most=14):
            agree("DEISMultistepScheduler", {"solver_order": order, **options}, n)
    agree("DEISMultistepScheduler", {"solver_order": order, **FLOW}, 10, tolerance=LOOSE)


@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("prediction", PREDICTIONS, ids=str)
def test_ddim(prediction, eta):
    for options in each(
        [{"clip_sample": True}, {"clip_sample": False}, {"clip_sample_range": 2.0}, THRESHOLD],
        [*SPACINGS, {"set_alpha_to_one": False}],
    ):
        for n, reuse in itertools.product(some(2, 20), (False, True)):
            agree("DDIMScheduler", {**prediction, **options}, n, eta=eta, use_clipped_model_output=reuse)


def test_ddim_from_zero_signal():
    for options in each([{"timestep_spacing": "trailing", **V}], [{"clip_sample": True}, {"clip_sample": False}]):
        for n in some():
            agree("DDIMScheduler", {"rescale_betas_zero_snr": True, **options}, n)


def test_ddim_inverse():
    for options in each([EPSILON, V], [{}, {"clip_sample": False}, {"timestep_spacing": "trailing"}]):
        for n in some():
            agree("DDIMInverseScheduler", options, n)


@pytest.mark.parametrize("variance", ["fixed_small", "fixed_small_log", "fixed_large"])
def test_ddpm(variance):
    for options in each(PREDICTIONS, [{"clip_sample": True}, {"clip_sample": False}, THRESHOLD], SPACINGS):
        for n in some(1, 2, 20):
            agree("DDPMScheduler", {"variance_type": variance, **options}, n)


@pytest.mark.parametrize("name", ["Euler", "EulerAncestral", "LMS"])
def test_one_evaluation_in_the_noise_level(name):
    predictions = [EPSILON, V] if name == "EulerAncestral" else PREDICTIONS
    grids = [*SPACINGS, *(SIGMAS[:2] if name != "EulerAncestral" else ())]
    grids += [{"final_sigmas_type": "sigma_min"}, {"interpolation_type": "log_linear"}] if name == "Euler" else []
    for options in each(predictions, grids):
        for n in some(1, 2, most=20):
            agree(f"{name}DiscreteScheduler", options, n)
    for n in some() if name != "LMS" else some(3, 10, most=20):  # diffusers integrates LMS's weights for milliseconds
        agree(f"{name}DiscreteScheduler", {}, n, **({"order": 2} if name == "LMS" else {}))


@pytest.mark.parametrize("name", ["Heun", "KDPM2", "KDPM2Ancestral"])
def test_two_evaluations_in_the_noise_level(name):
    grids = [*SPACINGS[:2], *SIGMAS[:1], *([{"clip_sample": True}] if name == "Heun" else [])]
    for options in [*grids, V]:
        for n in some(1, 10, most=20):
            agree(f"{name}DiscreteScheduler", options, n)
        for n in (2, 3):
            agree(f"{name}DiscreteScheduler", options, n, tolerance=LOOSE)


def test_dpm_solver_sde():
    for options in each([EPSILON, V], [{}, {"use_karras_sigmas": True}]):
        agree("DPMSolverSDEScheduler", {"noise_sampler_seed": 4, **options}, 5)
    agree("DPMSolverSDEScheduler", {"noise_sampler_seed": 4}, 3, s_noise=0.7, begin=1)


def test_edm():
    grids = [{}, {"sigma_schedule": "exponential", "sigma_data": 0.7}, {"final_sigmas_type": "sigma_min"}]
    for options in each([EPSILON, V], grids):
        for n in some():
            agree("EDMEulerScheduler", options, n)
    for options in each([EPSILON, V], dpm_solvers("dpmsolver++", "sde-dpmsolver++"), [*grids[:2], THRESHOLD]):
        for n in some(1, 2, 15):
            agree("EDMDPMSolverMultistepScheduler", options, n)


def test_flow_matching():
    for options in ({}, {"shift": 3.0}, {"use_karras_sigmas": True}, {"stochastic_sampling": True}):
        for n in some():
            agree("FlowMatchEulerDiscreteScheduler", options, n)
    for n in some(2, 20):
        options = {"use_dynamic_shifting": True, "shift_terminal": 0.02}
        agree("FlowMatchEulerDiscreteScheduler", options, n, times={"mu": 0.7})
        agree("FlowMatchHeunDiscreteScheduler", {"shift": 3.0}, n)


def test_distilled():
    for options in each(PREDICTIONS, [{}, {"clip_sample": True}, {"set_alpha_to_one": False}]):
        for n in some(1, 2, 4, most=50):
            agree("LCMScheduler", options, n)
            for eta in (0.0, 0.3, 1.0):
                agree("TCDScheduler", options, n, eta=eta)


def test_pseudo_numerical():
    for options in [{}, {"set_alpha_to_one": True}, {"steps_offset": 1}, {"timestep_spacing": "trailing"}]:
        for n in some(1, 2, 3, 20):
            agree("PNDMScheduler", {"skip_prk_steps": True, **options}, n)
    for n in some(5, 20):
        agree("PNDMScheduler", {}, n)
    for n in some():
        agree("IPNDMScheduler", {}, n)


@pytest.mark.parametrize("name", [n for n in ALL if not n.startswith(("LMS", "DPMSolverSDE", "DPMSolverMultistepInv"))])
def test_starts_in_the_middle(name):
    """LMS is left out: diffusers' weights there are those of outputs that it does not have."""
    options = {"skip_prk_steps": True} if name == "PNDMScheduler" else {}
    for begin in (1, 2, 5):
        agree(name, options, 10, begin=begin)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", [n for n in ALL if n != "DPMSolverSDEScheduler"])
def test_half_precision(name, dtype):
    agree(name, {"skip_prk_steps": True} if name == "PNDMScheduler" else {}, 10, dtype=dtype)
