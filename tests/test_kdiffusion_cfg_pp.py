"""CFG++ in the k-diffusion face: ComfyUI's formulas written out, and ComfyUI itself where it is installed."""

from __future__ import annotations

import inspect
import itertools
import math

import pytest
import torch
from hosts import EPS, HostModel, ModelSamplingFlow, flow_levels, in_turn
from peers import difference, network

from fastdiff import kdiffusion

NAMES = [name for name in kdiffusion.__all__ if name.endswith("_cfg_pp")]
NOISY = [name for name in NAMES if "ancestral" in name]
SCALE = 0.6


class Guided(HostModel):
    """A host's guided model with two bounded, nonlinear outputs."""

    def __call__(self, x, sigma, model_options=None, seed=None):
        self.told.append(float(sigma[0]))
        guided, uncond = self.outputs(x, sigma)
        for hook in (model_options or {}).get("sampler_post_cfg_function", []):
            guided = hook({"denoised": guided, "uncond_denoised": uncond})
        return guided

    def outputs(self, x, sigma):
        """D and U."""
        s = sigma.double().view(-1, *[1] * (x.ndim - 1))
        c = (s**2 + self.sampling.alpha(s) ** 2) ** -0.5
        cond, uncond = network(c * x, sigma / (1 + sigma)), network(c * x + 0.3, 1 / (1 + sigma))
        return tuple(t.to(x.dtype) for t in (uncond + SCALE * (cond - uncond), uncond))


def problem(flow, steps, dtype=torch.float64):
    """(model, x, sigmas)."""
    model = Guided(ModelSamplingFlow() if flow else EPS())
    sigmas = flow_levels(steps).to(dtype) if flow else kdiffusion.get_sigmas_karras(steps, 0.03, 14.6).to(dtype)
    return model, sigmas[0] * torch.randn(3, 7, dtype=dtype), sigmas


def down_and_up(s, t, eta):
    """The ancestral step of x0 + sigma eps."""
    up = min(t, eta * t * math.sqrt(1 - (t / s) ** 2)) if math.isfinite(s) else eta * t
    return math.sqrt(t**2 - up**2), up


def written_out(name, model, x, sigmas, eta, noise):
    """ComfyUI's samplers as its formulas say, on x0 + sigma eps; Euler's on rectified flows too."""
    outputs = lambda x, sigma: model.outputs(x, torch.tensor([float(sigma)] * len(x), dtype=torch.float64))  # noqa: E731
    sigmas, before, before_down = sigmas.tolist(), None, None
    for i, (s, t) in enumerate(itertools.pairwise(sigmas)):
        guided, uncond = outputs(x, s)
        a_s, a_t = (float(model.sampling.alpha(torch.tensor(v, dtype=torch.float64))) for v in (s, t))
        down, up = (a_t * v for v in down_and_up(s / a_s if a_s else math.inf, t / a_t, eta))
        h = math.log(s / down) if down else math.inf
        shrink = math.exp(-h)
        start = x + guided - uncond
        if down == 0 or "euler" in name or (before is None and "2s" not in name):
            new = a_t * guided + down * (x - a_s * uncond) / s
        elif "2s" in name:
            half = math.exp(-h / 2)
            second, its_uncond = outputs(half * start + (1 - half) * guided, s * half)
            new = shrink * (x + guided - its_uncond) + (1 - shrink) * second
        elif "2m" in name:
            r = math.log(sigmas[i - 1] / s) / h
            new = shrink * start + (1 - shrink) * (guided + (guided - before) / (2 * r))
        elif "res" in name:
            c2 = -math.log(sigmas[i - 1] / before_down) / h
            phi_1 = (1 - shrink) / h
            phi_2 = (1 - phi_1) / h
            new = shrink * start + h * ((phi_1 - phi_2 / c2) * uncond + phi_2 / c2 * before)
        elif "gradient" in name:
            d = (x - uncond) / s
            new = guided + t * d + (t - s) * (d - before)
        before = (x - uncond) / s if "gradient" in name else uncond
        before_down = down
        x = new + noise(s, t) * up if up and t else new
    return x


@pytest.mark.parametrize("eta", [1.0, 0.5, 0.0])
@pytest.mark.parametrize("name", NAMES)
def test_each_sampler_is_its_formula(name, eta):
    for steps in (1, 2, 3, 9, 30):
        model, x, sigmas = problem(False, steps)
        options = {"eta": eta, "noise_sampler": in_turn(x)} if name in NOISY else {}
        drawn = getattr(kdiffusion, name)(model, x, sigmas, {}, disable=True, **options)
        expected = written_out(name, model, x, sigmas, eta if name in NOISY else 0.0, in_turn(x))
        assert difference(drawn, expected) < 1e-11, steps


@pytest.mark.parametrize("eta", [1.0, 0.5, 0.0])
def test_on_a_flow_eulers_keep_the_unconditional_noise_at_every_alpha(eta):
    for steps in (1, 2, 9, 30):
        model, x, sigmas = problem(True, steps)
        drawn = kdiffusion.sample_euler_ancestral_cfg_pp(
            model, x, sigmas, {}, disable=True, eta=eta, noise_sampler=in_turn(x)
        )
        expected = written_out("sample_euler_ancestral_cfg_pp", model, x, sigmas, eta, in_turn(x))
        assert difference(drawn, expected) < 1e-11, steps
        if eta == 0:
            assert torch.equal(kdiffusion.sample_euler_cfg_pp(model, x, sigmas, {}, disable=True), drawn)


@pytest.mark.parametrize("flow", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_float32_agrees_with_float64(name, flow):
    model, x, sigmas = problem(flow, 12, torch.float32)
    options = {"noise_sampler": in_turn(x.double())} if name in NOISY else {}
    drawn = getattr(kdiffusion, name)(model, x, sigmas, {}, disable=True, **options)
    options = {"noise_sampler": in_turn(x.double())} if name in NOISY else {}
    wide = getattr(kdiffusion, name)(model, x.double(), sigmas.double(), {}, disable=True, **options)
    assert drawn.dtype == torch.float32
    assert difference(drawn.double(), wide) < 2e-4  # rounding grows in the network: 2e-5 once in 700 runs


@pytest.mark.parametrize("flow", [False, True])
@pytest.mark.parametrize("name", [name for name in NAMES if "2s" not in name])
def test_without_guidance_each_is_its_plain_sampler(name, flow):
    _, x, sigmas = problem(flow, 12)
    sigmas[0] = min(sigmas[0], 0.99) if flow else sigmas[0]
    model = HostModel(ModelSamplingFlow() if flow else EPS())
    plain = name.removesuffix("_cfg_pp")
    plain += "_ancestral" if name == "sample_euler_cfg_pp" else ""  # on a flow plain Euler is the same, with eta 0
    eta = 0.0 if name == "sample_euler_cfg_pp" or (flow and "euler" in name) else 0.7
    results = []
    for each in (name, plain):
        function = getattr(kdiffusion, each)
        options = {"eta": eta, "noise_sampler": in_turn(x)}
        known = inspect.signature(function).parameters
        options = {key: value for key, value in options.items() if key in known}
        results.append(function(model, x, sigmas, {}, disable=True, **options))
    assert difference(*results) < 1e-12


def test_a_row_in_noise_form_gets_the_guidance_in_data_units():
    """x' = D + sigma' (x - U) / sigma whatever the form of the rows that make it."""
    model, x, sigmas = problem(False, 1)
    sigmas = torch.tensor([5.0, 2.0], dtype=torch.float64)
    drawn = kdiffusion.sample_gradient_estimation_cfg_pp(model, x, sigmas, {}, disable=True)
    guided, uncond = model.outputs(x, sigmas[:1].expand(3))
    assert difference(drawn, guided + 2.0 * (x - uncond) / 5.0) < 1e-14


@pytest.mark.parametrize("name", NOISY)
def test_where_sigma_rises_x_follows_the_forward_process_without_guidance(name):
    model, x, _ = problem(False, 1)
    sigmas = torch.tensor([1.0, 3.0, 5.0], dtype=torch.float64)
    drawn = getattr(kdiffusion, name)(model, x, sigmas, {}, disable=True, noise_sampler=in_turn(x))
    noise = in_turn(x)
    expected = x + math.sqrt(8) * noise(1, 3) + 4 * noise(3, 5)
    assert difference(drawn, expected) < 1e-12


def cases():
    """(name, flow, eta): flows with noise only where ComfyUI adds it by the flow's own forward process."""
    for name in [*NAMES, "sample_res_multistep_ancestral"]:
        etas = (1.0, 0.5, 0.0) if "ancestral" in name else (None,)
        yield from ((name, False, eta) for eta in etas)
        yield from ((name, True, eta) for eta in etas if not eta or "euler" in name)


@pytest.mark.parametrize(("name", "flow", "eta"), list(cases()))
def test_comfyui_itself_gives_the_same(name, flow, eta, comfyui):
    import comfy.model_sampling as comfy_sampling

    kinds = (comfy_sampling.ModelSamplingDiscreteFlow, comfy_sampling.CONST) if flow else (comfy_sampling.EPS,)
    sampling = type("Sampling", kinds, {"alpha": staticmethod((ModelSamplingFlow if flow else EPS).alpha)})()
    for steps in (1, 2, 3, 9, 30):
        model, x, sigmas = Guided(sampling), *problem(flow, steps)[1:]
        sigmas = sigmas * 0.98 if flow else sigmas
        results = []
        for module in (comfyui, kdiffusion):
            options = {} if eta is None else {"eta": eta, "noise_sampler": in_turn(x)}
            results.append(getattr(module, name)(model, x, sigmas, {}, disable=True, **options))
        assert difference(results[1], results[0]) < 1e-11, steps
