"""Every sampler of ComfyUI's menu beside fastdiff's, in float64 with the same noise; where they differ, why."""

from __future__ import annotations

import inspect

import pytest
import torch

from bench.comfy_host import DEVIATIONS, FORMS, LOSSY, NO_ALPHA, ROUNDING, Host, Model, differs, in_double, worst
from fastdiff import kdiffusion

# ComfyUI 0.3.64's; the last test holds them to the one at hand.
NAMES = (
    "euler", "euler_cfg_pp", "euler_ancestral", "euler_ancestral_cfg_pp", "heun", "heunpp2", "dpm_2",
    "dpm_2_ancestral", "lms", "dpm_fast", "dpm_adaptive", "dpmpp_2s_ancestral", "dpmpp_2s_ancestral_cfg_pp",
    "dpmpp_sde", "dpmpp_sde_gpu", "dpmpp_2m", "dpmpp_2m_cfg_pp", "dpmpp_2m_sde", "dpmpp_2m_sde_gpu",
    "dpmpp_2m_sde_heun", "dpmpp_2m_sde_heun_gpu", "dpmpp_3m_sde", "dpmpp_3m_sde_gpu", "ddpm", "lcm", "ipndm",
    "ipndm_v", "deis", "res_multistep", "res_multistep_cfg_pp", "res_multistep_ancestral",
    "res_multistep_ancestral_cfg_pp", "gradient_estimation", "gradient_estimation_cfg_pp", "er_sde", "seeds_2",
    "seeds_3", "sa_solver", "sa_solver_pece", "ddim", "uni_pc", "uni_pc_bh2",
)  # fmt: skip
CASES = [(name, form) for name in NAMES for form in FORMS]
WITH_NOISE = [n for n in NAMES if n == "er_sde" or "ancestral" in n or "sde" in n or n[:5] in ("seeds", "sa_so")]
WITH_NOISE += ["ddpm", "lcm"]
WITH_CHURN = ["euler", "heun", "heunpp2", "dpm_2"]


@pytest.fixture(scope="module")
def host(comfyui):
    return Host.load()


@pytest.mark.parametrize(("name", "form"), [case for case in CASES if differs(*case) is None])
def test_the_same_noise_gives_comfyuis_samples(name, form, host):
    assert worst(host, name, form) < LOSSY.get(name, ROUNDING)


@pytest.mark.parametrize(("name", "form"), [case for case in CASES if differs(*case) is not None])
def test_results_differ_for_the_stated_reason_alone(name, form, host):
    deviation = differs(name, form)
    assert ROUNDING < worst(host, name, form) < deviation.bound
    if deviation.options or deviation.last:
        assert worst(host, name, form, options=deviation.options, last=deviation.last) < ROUNDING


def run(host, form, name, options):
    with in_double():
        sigmas = host.levels(form, 9)
        x = sigmas[0] * torch.randn(3, 4, 5, 5, generator=torch.Generator().manual_seed(3))
        torch.manual_seed(5)
        return host.function(name)(Model(host.form(form)), x, sigmas, {"seed": 11}, None, True, **options)


def reproducible():
    """Where ComfyUI keeps the distribution: not on flows with churn, nor where noise ignores their alpha."""
    for name in [*WITH_NOISE, *WITH_CHURN]:
        yield name, "eps"
        found = differs(name, "flow")
        if name not in WITH_CHURN and (found is None or found.reason != NO_ALPHA):
            yield name, "flow"


@pytest.mark.parametrize(("name", "form"), list(reproducible()))
def test_with_seed_compat_a_seed_gives_comfyuis_own_picture(name, form, host):
    """Through the menu's names: ComfyUI's Brownian tree, its generator's order, its draws outside a churn's window."""
    options = {"s_churn": 3.0, "s_tmin": 0.1, "s_tmax": 5.0} if name in WITH_CHURN else {}
    options |= {"max_stage": 1} if name == "er_sde" else {}  # whose integrals are no sums
    theirs = run(host, form, name, options)
    handle = kdiffusion.register(host.sampling, host.samplers, seed_compat=True)
    try:
        mine = run(host, form, name, options)
    finally:
        handle.undo()
    assert float((mine - theirs).abs().max() / theirs.abs().max()) < LOSSY.get(name, ROUNDING)


def test_every_name_of_the_menu_runs_fastdiff_or_says_why_not(host):
    assert tuple(host.samplers.SAMPLER_NAMES) == NAMES
    before = {name: host.function(name) for name in NAMES if not name.startswith("dpm_")}
    handle = kdiffusion.register(host.sampling, host.samplers)
    assert handle.left == {"ddim": "the host runs sample_euler for it"}
    assert "left alone ddim (the host runs sample_euler for it)" in repr(handle)
    changed = [name for name in before if host.function(name) is not before[name]]
    assert changed == list(before)
    assert host.function("ddim") is host.sampling.sample_euler
    handle.undo()
    assert {name: host.function(name) for name in before} == before


def test_with_a_prefix_every_sampler_stands_in_the_menu_beside_comfyuis(host):
    handle = kdiffusion.register(host.sampling, host.samplers, prefix="fd_", seed_compat=True)
    names = [f"fd_{name.removeprefix('sample_')}" for name in kdiffusion.__all__ if name.startswith("sample_")]
    assert set(names) <= set(host.samplers.SAMPLER_NAMES)
    assert set(names) <= set(host.samplers.KSAMPLER_NAMES)
    for name in names:
        drawn = run(host, "eps", name, {})
        assert torch.isfinite(drawn).all(), name
    handle.undo()
    assert tuple(host.samplers.SAMPLER_NAMES) == NAMES


def test_arguments_are_comfyuis_in_its_order_with_its_defaults(host):
    for name in NAMES:
        if not hasattr(host.sampling, f"sample_{name}"):
            continue  # ddim and uni_pc
        theirs = inspect.signature(getattr(host.sampling, f"sample_{name}")).parameters.values()
        found = inspect.signature(getattr(kdiffusion, f"sample_{name}")).parameters.values()
        defaults = [(p.name, p.default) for p in theirs if p.name != "disable"]
        assert [(p.name, p.default) for p in found if p.name != "disable"][: len(defaults)] == defaults, name


def test_each_deviation_is_one_of_the_menus():
    assert set(DEVIATIONS) <= set(NAMES)
