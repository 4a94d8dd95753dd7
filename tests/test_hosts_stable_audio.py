"""fastdiff.hosts.stable_audio: stable-audio-tools' samplers by their formulas, and the real ones where installed."""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from speech_stand_ins import stable_audio_tools
from torch import Tensor

import fastdiff as fd
from fastdiff import kdiffusion
from fastdiff.hosts import stable_audio
from fastdiff.hosts.stable_audio import sample_k, sample_rf
from fastdiff.hosts.stable_audio.rectified_flow import package_times

SPREAD = 0.5


class Velocity:
    """The exact v or velocity of Gaussian data of standard deviation 0.5 around 1; times: what it was called at."""

    def __init__(self, flow: bool = False) -> None:
        self.flow = flow
        self.times: list[Tensor] = []
        self.kwargs: dict[str, object] = {}

    def __call__(self, x: Tensor, t: Tensor, **kwargs: object) -> Tensor:
        self.times.append(t)
        self.kwargs = kwargs
        t = t.view(-1, 1, 1)
        alpha, sigma = (1 - t, t) if self.flow else (torch.cos(t * math.pi / 2), torch.sin(t * math.pi / 2))
        gain = 1 / (alpha**2 * SPREAD**2 + sigma**2)
        data = 1 + alpha * SPREAD**2 * gain * (x - alpha)
        noise = sigma * gain * (x - alpha)
        return noise - data if self.flow else alpha * noise - sigma * data


@pytest.fixture
def noise() -> Tensor:
    return torch.randn(2, 3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def init(noise: Tensor) -> Tensor:
    return 1 + SPREAD * noise.flip(-1)


def sample(call: Callable[..., Tensor], *args: object, **kwargs: Any) -> tuple[Tensor, list[dict]]:
    seen: list[dict] = []
    return call(*args, callback=seen.append, **kwargs), seen


@pytest.mark.parametrize("name", ["euler", "dpmpp"])
@pytest.mark.parametrize("first", [1.0, 0.6])
def test_the_flow_samplers_take_the_packages_steps(noise: Tensor, init: Tensor, name: str, first: float) -> None:
    model, times = Velocity(flow=True), package_times(first, 6)
    x = noise if first == 1 else (1 - first) * init + first * noise
    states, data = [x], []
    for t, s in itertools.pairwise(times):
        v = model(x, torch.full((2,), t, dtype=torch.float64))
        data.append(x - t * v)
        if name == "euler":
            x = x + (s - t) * v
        else:
            # DPM-Solver++ 2M in data form; with infinite steps in log SNR the newest prediction counts alone.
            d = data[-1]
            i = len(data) - 1
            if i and s > 0 and times[i - 1] < 1:
                snr = [math.log((1 - u) / u) for u in (times[i - 1], t, s)]
                d = d + (snr[2] - snr[1]) / (snr[1] - snr[0]) / 2 * (d - data[-2])
            x = s / t * x + (1 - s - s / t * (1 - t)) * d
        states.append(x)
    ours, seen = sample(sample_rf, model, noise, None if first == 1 else init, 6, name, first)
    assert torch.allclose(ours, x, rtol=0, atol=1e-9)
    assert [step["i"] for step in seen] == [1, 2, 3, 4, 5, 6]
    for step, t, state, d in zip(seen, times, states[1:], data, strict=False):
        assert step["t"] == step["sigma"] == pytest.approx(t)
        assert torch.allclose(step["x"], state, rtol=0, atol=1e-9)
        assert torch.allclose(step["denoised"], d, rtol=0, atol=1e-9)


@pytest.mark.parametrize("first", [1.0, 0.6])
def test_v_ddim_ends_at_the_last_prediction(noise: Tensor, init: Tensor, first: float) -> None:
    model, times = Velocity(), np.linspace(first, 0, 7)[:-1] ** 1.2
    alpha, sigma = np.cos(times * math.pi / 2), np.sin(times * math.pi / 2)
    begin = (math.cos(first * math.pi / 2), math.sin(first * math.pi / 2))
    x = noise if first == 1 else begin[0] * init + begin[1] * noise
    for i, t in enumerate(times):
        v = model(x, torch.full((2,), t, dtype=torch.float64))
        pred, eps = alpha[i] * x - sigma[i] * v, sigma[i] * x + alpha[i] * v
        x = pred if i == 5 else alpha[i + 1] * pred + sigma[i + 1] * eps

    class Shift:
        def time_shift(self, t: Tensor, length: int) -> Tensor:
            assert length == 5
            return t**1.2

    if first == 1:
        ours = sample_k(model, noise, steps=6, sampler_type="v-ddim", sigma_max=100, dist_shift=Shift())
        assert torch.allclose(ours, x, rtol=0, atol=1e-9)
    else:  # the package noises to sigma_max and begins at the shifted time; so does the plan
        ours = sample_k(model, noise, init, 6, "v-ddim", sigma_max=first, dist_shift=Shift())
        assert torch.allclose(ours, x, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", ["k-heun", "k-lms", "k-dpm-2", "dpmpp-2m", "k-dpm-fast", "k-dpm-adaptive"])
def test_k_samplers_are_k_diffusions_on_a_polyexponential_grid(noise: Tensor, init: Tensor, name: str) -> None:
    def denoiser(x: Tensor, sigma: Tensor) -> Tensor:
        return 1 + SPREAD**2 / (SPREAD**2 + sigma.view(-1, 1, 1) ** 2) * (x - 1)

    function = getattr(kdiffusion, "sample_" + name.removeprefix("k-").replace("-", "_"))
    options = {"rtol": 0.01, "atol": 0.01} if name == "k-dpm-adaptive" else {}
    grid: tuple = (kdiffusion.get_sigmas_polyexponential(7, 0.02, 30.0, 1.5),)
    if name.startswith(("k-dpm-fast", "k-dpm-ad")):
        grid = (0.02, 30.0, 7) if name == "k-dpm-fast" else (0.02, 30.0)
    expected, theirs = sample(function, denoiser, init + 30 * noise, *grid, disable=True, **options)
    ours, seen = sample(sample_k, Velocity(), noise, init, 7, name, 0.02, 30.0, 1.5)
    assert torch.allclose(ours, expected, rtol=0, atol=1e-5)
    assert [step.keys() for step in seen] == [step.keys() for step in theirs]


@pytest.mark.parametrize("steps", [1, 2, 4, 6, 8, 10, 100])
@pytest.mark.parametrize("scale", [1.0, 3.0, 7.0])
@pytest.mark.parametrize("part", [False, True])
def test_the_default_makes_so_many_calls_and_is_nearer_than_the_packages(
    noise: Tensor, init: Tensor, steps: int, scale: float, part: bool
) -> None:
    # Gaussian data: x / sqrt of the variance, centred, is constant along the ODE.
    first = 0.6 if part else 1.0
    x = noise if not part else (1 - first) * init + first * noise
    exact = 1 + SPREAD / math.hypot(SPREAD * (1 - first), first) * (x - (1 - first))
    model = Velocity(flow=True)
    ours = sample_rf(model, noise, init if part else None, steps, sigma_max=first, cfg_scale=scale)
    assert len(model.times) == steps
    assert model.kwargs == {"cfg_scale": scale}
    own = sample_rf(model, noise, init if part else None, steps, "euler", first)
    assert steps < 4 or (ours - exact).norm() < (own - exact).norm()

    greatest = 3.0 if part else 100.0
    x = greatest * noise + (init if part else 0)
    exact = 1 + SPREAD / math.hypot(SPREAD, greatest) * (x - 1)
    model = Velocity()
    ours = sample_k(model, noise, init if part else None, steps, sigma_max=greatest, cfg_scale=scale)
    assert len(model.times) == steps
    if not part:  # from little noise the package's own is as near on data this simple
        own = sample_k(Velocity(), noise, None, steps, "dpmpp-2m", sigma_max=greatest)
        assert steps < 4 or (ours - exact).norm() < (own - exact).norm()


def test_a_gradient_moves_x0_by_sigma_squared_times_it(noise: Tensor) -> None:
    def pull(x: Tensor, sigma: Tensor, denoised: Tensor, scale: float) -> Tensor:
        (grad,) = torch.autograd.grad(-denoised.sum() * scale, x)
        return grad / sigma.view(-1, 1, 1) ** 2

    plain, moved = (sample_k(Velocity(), noise, steps=1, cond_fn=pull, scale=scale) for scale in (0.0, 2.0))
    slope = SPREAD**2 / (SPREAD**2 + 100.0**2)
    assert torch.allclose(moved - plain, torch.full_like(plain, -2 * slope), rtol=1e-6)


def test_a_plan_is_run_whatever_steps_is(noise: Tensor) -> None:
    model = Velocity()
    sample_k(model, noise, steps=50, sampler_type=fd.plan("heun", fd.Schedule.edm(0.1, 100), 3, prediction="sample"))
    assert len(model.times) == 5
    model = Velocity(flow=True)
    sample_rf(model, noise, steps=50, sampler_type=fd.plan("midpoint", fd.Schedule.flow(), 3))
    assert len(model.times) == 6


def test_half_precision_is_the_models_not_the_states(noise: Tensor) -> None:
    for call, model in ((sample_k, Velocity()), (sample_rf, Velocity(flow=True))):
        assert call(model, noise.half(), steps=6).dtype == torch.float16
        assert model.times[0].dtype == torch.float16
        assert model.times[0].shape == (2,)


def test_unknown_names_are_errors_with_the_packages_words(noise: Tensor) -> None:
    with pytest.raises(ValueError, match="Unknown sampler type dpmpp-4m"):
        sample_k(Velocity(), noise, sampler_type="dpmpp-4m")
    with pytest.raises(ValueError, match="solver"):
        sample_rf(Velocity(True), noise, sampler_type="dpm++")
    with pytest.raises(ValueError, match="sampler_type: expected one that draws no noise"):
        sample_rf(Velocity(True), noise, sampler_type="euler_ancestral")
    with pytest.raises(ValueError, match="cond_fn"):
        sample_rf(Velocity(True), noise, cond_fn=lambda *a: None)


def test_patch_puts_both_into_both_modules_and_undo_takes_them_back(monkeypatch: pytest.MonkeyPatch) -> None:
    modules = stable_audio_tools()
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    handle = stable_audio.patch()
    inference = [modules[f"stable_audio_tools.inference.{name}"] for name in ("sampling", "generation")]
    assert all(module.sample_k is sample_k and module.sample_rf is sample_rf for module in inference)
    with pytest.raises(ValueError, match="draws with fastdiff already"):
        stable_audio.patch()
    handle.undo()
    assert all(module.sample_k is module.sample_rf is len for module in inference)


@pytest.mark.hosts
@pytest.mark.parametrize("name", ["dpmpp-2m-sde", "dpmpp-3m-sde", "k-dpmpp-2s-ancestral"])
def test_seeds_keep_their_sounds(noise: Tensor, name: str) -> None:
    pytest.importorskip("k_diffusion.external")
    real = pytest.importorskip("stable_audio_tools.inference.sampling")
    found = []
    for call in (real.sample_k, sample_k):
        torch.manual_seed(0)
        found.append(call(Velocity(), noise, steps=9, sampler_type=name, sigma_min=0.3, sigma_max=500, device="cpu"))
    assert torch.allclose(*found, rtol=0, atol=1e-5)


@pytest.mark.hosts
@pytest.mark.parametrize("name", ["euler", "dpmpp", "rk4", "pingpong"])
def test_the_packages_flow_samplers_agree(noise: Tensor, init: Tensor, name: str) -> None:
    real = pytest.importorskip("stable_audio_tools.inference.sampling")
    found = []
    for call in (real.sample_rf, sample_rf):
        torch.manual_seed(0)
        found.append(call(Velocity(True), noise, init, 7, name, 0.7))
    assert torch.allclose(*found, rtol=0, atol=1e-5)
