"""The levels a k-diffusion sampler takes: none to go, repeated, rising, and in any order."""

from __future__ import annotations

import inspect
import itertools

import numpy as np
import pytest
import torch
from hosts import EPS, MEAN, STD, HostModel, ModelSamplingFlow, exact, in_turn
from hypothesis import given, settings
from hypothesis import strategies as st
from linear_law import law

from fastdiff import kdiffusion
from fastdiff.kdiffusion.caller_sigmas import segments

ON_SIGMAS = [name for name in kdiffusion.__all__ if name.startswith("sample_") and not name.endswith("_gpu")]
ON_SIGMAS = [name for name in ON_SIGMAS if name not in ("sample_dpm_fast", "sample_dpm_adaptive")]
NOISY = [n for n in ON_SIGMAS if "noise_sampler" in inspect.signature(getattr(kdiffusion, n)).parameters]
NOISY = [n for n in NOISY if n not in ("sample_res_multistep", "sample_res_multistep_cfg_pp")]  # which ignore it
ODE = [n for n in ON_SIGMAS if n not in NOISY]
FIRST_ORDER = [f"sample_{name}" for name in ("euler", "gradient_estimation", "ipndm", "heunpp2")]
NO_LAW = ["sample_dpmpp_2s_ancestral_cfg_pp", "sample_lcm"]  # the first as in ComfyUI; the second wants another model
EITHER = pytest.mark.parametrize("flow", [False, True], ids=["edm", "flow"])


def model_of(flow):
    return HostModel(ModelSamplingFlow() if flow else EPS())


def route(*corners, steps=24):
    """From corner to corner in turn, uniform in sigma^(1/3)."""
    roots = [torch.linspace(a ** (1 / 3), b ** (1 / 3), steps + 1).double() for a, b in itertools.pairwise(corners)]
    return torch.cat([roots[0], *(part[1:] for part in roots[1:])]) ** 3


def marginal(sigma, flow, count=96):
    """Fresh x at a level."""
    noise, data = torch.randn(2, count, count, dtype=torch.float64)
    return sigma * noise + (1 - sigma if flow else 1.0) * (MEAN + STD * data)


def moments(sigma, flow):
    alpha = 1 - sigma if flow else 1.0
    return alpha * MEAN, ((alpha * STD) ** 2 + sigma**2) ** 0.5


@pytest.mark.parametrize("count", [0, 1])
@pytest.mark.parametrize("name", ON_SIGMAS)
def test_without_a_step_to_go_x_comes_back(name, count):
    x = torch.randn(2, 3)
    drawn = getattr(kdiffusion, name)(None, x, torch.full((count,), 7.0), disable=True)
    assert torch.equal(drawn, x)


QUIET = {"eta": 0.0, "tau_func": lambda sigma: 0.0}  # options that leave noise out


def quiet(name):
    known = inspect.signature(getattr(kdiffusion, name)).parameters
    options = {"s_noise": 0.0} if name == "sample_er_sde" else {}
    return options | {option: value for option, value in QUIET.items() if option in known}


@EITHER
@pytest.mark.parametrize("name", [name for name in ON_SIGMAS if name in ODE or quiet(name)])
def test_a_level_that_comes_again_at_once_changes_nothing(name, flow):
    x = marginal(0.9, flow, 8)
    once = torch.cat([route(0.9, 0.1)[::4], torch.zeros(1).double()])
    again = once.repeat_interleave(torch.tensor([1, 3, 1, 1, 2, 1, 2, 1]))
    drawn = [getattr(kdiffusion, name)(model_of(flow), x, s, disable=True, **quiet(name)) for s in (once, again)]
    torch.testing.assert_close(drawn[1], drawn[0], rtol=1e-12, atol=1e-12)


@EITHER
@pytest.mark.parametrize("name", NOISY)
def test_with_noise_too_and_none_is_drawn_there(name, flow):
    x = marginal(0.9, flow, 8)
    once = torch.cat([route(0.9, 0.1)[::4], torch.zeros(1).double()])
    again = once.repeat_interleave(torch.tensor([1, 3, 1, 1, 2, 1, 2, 1]))
    drawn = [
        getattr(kdiffusion, name)(model_of(flow), x, s, disable=True, noise_sampler=in_turn(x)) for s in (once, again)
    ]
    torch.testing.assert_close(drawn[1], drawn[0], rtol=1e-12, atol=1e-12)


@EITHER
@pytest.mark.parametrize("name", ODE)
def test_ode_solvers_follow_the_flow_wherever_the_levels_go(name, flow):
    """Down, up beyond a level passed before, and down again: x is the exact flow's at the end."""
    path, units = route(0.9, 0.3, 0.6, 0.2), torch.linspace(-3, 3, 7, dtype=torch.float64)[:, None]
    (m_s, std_s), (m_t, std_t) = moments(0.9, flow), moments(0.2, flow)
    drawn = getattr(kdiffusion, name)(model_of(flow), m_s + std_s * units, path, disable=True)
    error = (drawn - (m_t + std_t * units)).abs().max()
    assert float(error) < (0.5 if name.removesuffix("_cfg_pp") in FIRST_ORDER else 0.06)


@EITHER
@pytest.mark.parametrize("path", [(0.2, 0.9), (0.9, 0.3, 0.6, 0.2)], ids=["up", "mixed"])
@pytest.mark.parametrize("name", [n for n in NOISY if n not in NO_LAW])
def test_with_noise_the_law_holds_wherever_the_levels_go(name, path, flow):
    """Mean and std of each level are the data's with its noise: up, by the forward process."""

    def draw(x, noise):
        return getattr(kdiffusion, name)(model_of(flow), x, route(*path, steps=36), disable=True, noise_sampler=noise)

    mean, std = law(draw, *moments(path[0], flow))
    assert mean == pytest.approx(moments(path[-1], flow)[0], abs=1e-6)
    assert std == pytest.approx(moments(path[-1], flow)[1], abs=0.1 if "euler" in name or "ddpm" in name else 0.02)


@pytest.mark.parametrize("name", NOISY)
def test_without_a_noise_sampler_the_noise_is_the_seeds_brownian_path(name):
    x, path = marginal(0.9, False, 4), route(0.9, 0.2, steps=5)
    sample, model = getattr(kdiffusion, name), model_of(False)
    drawn = sample(model, x, path, {"seed": 3}, disable=True)
    brownian = kdiffusion.BrownianTreeNoiseSampler(x, 0.2, 0.9, seed=3)
    assert torch.equal(sample(model, x, path, {}, disable=True, noise_sampler=brownian), drawn)


@EITHER
def test_up_with_all_of_the_noise_x_keeps_its_data(flow):
    x, noise = marginal(0.2, flow, 8), []
    sampler = in_turn(x)
    drawn = kdiffusion.sample_euler_ancestral(
        model_of(flow), x, torch.tensor([0.2, 0.7], dtype=torch.float64), disable=True,
        noise_sampler=lambda *ends: noise.append(sampler(*ends)) or noise[0],
    )  # fmt: skip
    kept = 0.3 / 0.8 if flow else 1.0
    torch.testing.assert_close(drawn, kept * x + (0.7**2 - (kept * 0.2) ** 2) ** 0.5 * noise[0])


def test_a_stretch_that_is_passed_again_meets_fresh_noise():
    x = torch.zeros(2, 50000, dtype=torch.float64)
    sums = []
    for turns in (2, 6):
        path = torch.tensor([3.0, 1.0] * turns, dtype=torch.float64)
        drawn = kdiffusion.sample_euler_ancestral(
            lambda x, sigma: 0 * x, x, path, extra_args={}, disable=True, noise_sampler=None
        )
        sums.append(float(drawn.std()))
    # With D = 0 each pass down keeps 1/9 of x, and its noise and the way up's add independently.
    expected = []
    for turns in (2, 6):
        variance = 0.0
        for _ in range(turns - 1):
            variance = variance / 81 + 1 - 1 / 9  # down: x / 9, and sigma_up^2 = 8 / 9
            variance += 8.0  # up, by the forward process
        expected.append((variance / 81 + 8 / 9) ** 0.5)
    assert sums == pytest.approx(expected, rel=7 * (2 * x.numel()) ** -0.5)  # seven standard errors


@settings(max_examples=60)
@given(st.lists(st.sampled_from([0.1, 0.2, 0.3, 0.5, 0.7]), min_size=2, max_size=9), st.booleans())
def test_stretches_join_and_hold_no_level_twice(values, turn):
    values = np.array(values)
    parts = segments(values, turn)
    steps = [(values[a], values[b]) for part in parts for a, b in itertools.pairwise(part)]
    assert steps == [(a, b) for a, b in itertools.pairwise(values) if a != b]
    for part in parts:
        assert len(set(values[part])) == len(part)
        if turn:
            assert len(set(np.sign(np.diff(values[part])))) == 1


@settings(max_examples=25)
@given(
    name=st.sampled_from(ODE),
    values=st.lists(st.sampled_from([0.2, 0.25, 0.3, 0.5, 0.55, 0.7]), min_size=2, max_size=8),
)
def test_no_order_of_levels_breaks_an_ode_solver(name, values):
    x = marginal(values[0], False, 2)
    drawn = getattr(kdiffusion, name)(HostModel(EPS()), x, torch.tensor(values, dtype=torch.float64), disable=True)
    assert torch.isfinite(drawn).all()
    assert float((drawn - exact(x, torch.tensor([values[0]]), torch.ones(1))).abs().max()) < 20


def test_levels_that_are_none_are_refused():
    for sigmas in ([3.0, 0.0, 1.0], [0.0, 1.0], [3.0, -1.0], [3.0, float("inf")]):
        with pytest.raises(ValueError, match="sigmas: expected numbers > 0"):
            kdiffusion.sample_euler(None, torch.zeros(1, 1), torch.tensor(sigmas), disable=True)
