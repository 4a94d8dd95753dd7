"""fastdiff.sample against k-diffusion's functions, both in float64, with the same noise, for every N from 1 to 60.

The peer computes in float64 throughout, so only rounding differs. It loses digits where it subtracts nearly equal
numbers: most of all sigma_down = sqrt(sigma_next^2 - sigma_up^2), whose relative error is 1e-16 (sigma / sigma_next)^2.
"""

import math

import pytest
import torch
from peers import SEEDS, difference, network, path_noise, start_noise

import fastdiff as fd
from fastdiff.plans.grid import make_grid

EDM = fd.Schedule.edm(sigma_min=0.1, sigma_max=80.0)
TOLERANCE = 1e-10
TOLERANCE_ANCESTRAL = 1e-7  # with eta 1, whose sigma_down is the smallest


def denoise(x, sigma):
    """A bounded x0, as a trained model's would be."""
    c = (1 + sigma**2) ** -0.5
    return network(x * c.view(-1, 1), c)


def noises_in_turn():
    """fastdiff's noises 1, 2, ... one a step."""
    count = iter(range(1, 1000))
    return lambda *_: path_noise(next(count))


def brownian_path():
    """dpmpp_sde's two noises a step as increments of one Brownian path over sigma."""
    calls, first = iter(range(1000)), {}

    def sampler(start, end):
        i, half = divmod(next(calls), 2)
        w = (start - end).sqrt() * path_noise(2 * i + 1)
        if half == 0:
            first["end"], first["w"] = end, w
            return w / (start - end).sqrt()
        whole = first["w"] + (first["end"] - end).sqrt() * path_noise(2 * i + 2)
        return whole / (start - end).sqrt()

    return sampler


# No order falls, neither at the end nor on long steps.
PUBLISHED = {"lower_order_final": False, "max_ratio": math.inf}

CASES = {
    "euler": ("sample_euler", {}, {}, None),
    "euler_ancestral": ("sample_euler_ancestral", {}, {}, noises_in_turn),
    "euler_ancestral, some noise": (
        "sample_euler_ancestral", {"eta": 0.6, "s_noise": 1.02}, {"eta": 0.6, "s_noise": 1.02}, noises_in_turn,
    ),
    "heun": ("sample_heun", {}, {}, None),
    "dpm_2": ("sample_dpm_2", {}, {}, None),
    "dpm_2_ancestral": ("sample_dpm_2_ancestral", {}, {}, noises_in_turn),
    "dpm_2_ancestral, some noise": (
        "sample_dpm_2_ancestral", {"eta": 0.6, "s_noise": 1.02}, {"eta": 0.6, "s_noise": 1.02}, noises_in_turn,
    ),
    "dpmpp_2m": ("sample_dpmpp_2m", {}, PUBLISHED, None),
    "dpmpp_sde": ("sample_dpmpp_sde", {}, {}, brownian_path),
    "dpmpp_sde, some noise": (
        "sample_dpmpp_sde", {"eta": 0.7, "s_noise": 0.9, "r": 0.4}, {"eta": 0.7, "s_noise": 0.9, "r": 0.4},
        brownian_path,
    ),
    "dpmpp_2m_sde": ("sample_dpmpp_2m_sde", {}, PUBLISHED, noises_in_turn),
    "dpmpp_2m_sde, heun, some noise": (
        "sample_dpmpp_2m_sde",
        {"solver_type": "heun", "eta": 0.5, "s_noise": 1.02},
        {"correction": "heun", "eta": 0.5, "s_noise": 1.02, **PUBLISHED},
        noises_in_turn,
    ),
    "dpmpp_3m_sde": ("sample_dpmpp_3m_sde", {}, PUBLISHED, noises_in_turn),
    "dpmpp_3m_sde, some noise": (
        "sample_dpmpp_3m_sde", {"eta": 0.5, "s_noise": 1.02}, {"eta": 0.5, "s_noise": 1.02, **PUBLISHED},
        noises_in_turn,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_sampler_equals_k_diffusion_for_every_number_of_steps(case, k_diffusion):
    function, their_options, our_options, sampler = CASES[case]
    sample = getattr(k_diffusion, function)
    solver = case.partition(",")[0]
    tolerance = TOLERANCE_ANCESTRAL if case == "dpm_2_ancestral" else TOLERANCE
    # With one step the peer's multistep SDEs read a variable before it is set; see the next test.
    for n in range(2 if "m_sde" in case else 1, 61):
        plan = fd.plan(solver, EDM, n, grid="karras", prediction="sample", **our_options)
        noisy = {} if sampler is None else {"noise_sampler": sampler()}
        sigmas = torch.tensor([*EDM.sigma(make_grid(EDM, n, "karras").t)])
        theirs = sample(denoise, start_noise() * sigmas[0], sigmas, disable=True, **noisy, **their_options)
        ours = fd.sample(denoise, plan, start_noise(), seeds=SEEDS)
        assert difference(ours, theirs) < tolerance, n


@pytest.mark.parametrize("solver", ["dpmpp_2m_sde", "dpmpp_3m_sde"])
def test_multistep_sde_in_one_step_is_the_prediction_where_k_diffusion_raises(solver, k_diffusion):
    sigmas = torch.tensor([80.0, 0.0], dtype=torch.float64)
    sample = getattr(k_diffusion, f"sample_{solver}")
    with pytest.raises(UnboundLocalError):
        sample(denoise, start_noise(), sigmas, disable=True, noise_sampler=noises_in_turn())
    plan = fd.plan(solver, EDM, 1, grid="karras", prediction="sample")
    ours = fd.sample(denoise, plan, start_noise(), seeds=SEEDS)
    torch.testing.assert_close(ours, denoise(80.0 * start_noise(), sigmas[:1].expand(2)), rtol=1e-14, atol=1e-15)


def test_noise_levels_are_k_diffusions(k_diffusion):
    for grid in ("karras", "exponential"):
        function = getattr(k_diffusion, f"get_sigmas_{grid}")
        for n in (1, 2, 7, 40):
            # get_sigmas_* are float32: seven digits, times rho = 7 in the exponent.
            theirs = function(n, 0.1, 80.0).double()
            torch.testing.assert_close(torch.tensor(make_grid(EDM, n, grid).sigma), theirs, rtol=5e-6, atol=0)
