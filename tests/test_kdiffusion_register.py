"""fastdiff's samplers in a host's tables: its arguments, its noise, its names, and everything put back."""

from __future__ import annotations

import inspect
import itertools
import math
import types

import pytest
import torch
from hosts import EPS, MEAN, STD, HostModel, ModelSamplingFlow, flow_levels, new_host

from fastdiff import kdiffusion

SIGMAS = torch.tensor([14.6, 9.0, 5.0, 2.0, 0.7, 0.2, 0.0])

# What ComfyUI's functions take after (model, x, sigmas, extra_args, callback, disable), of all its versions.
NOISE = ("eta", "s_noise", "noise_sampler")
CHURN = ("s_churn", "s_tmin", "s_tmax", "s_noise")
SA = ("tau_func", "s_noise", "noise_sampler", "predictor_order", "corrector_order")
COMFYUI = {
    "euler": CHURN,
    "heun": CHURN,
    "dpm_2": CHURN,
    "euler_ancestral": NOISE,
    "dpm_2_ancestral": NOISE,
    "dpmpp_2s_ancestral": NOISE,
    "lms": ("order",),
    "dpmpp_sde": (*NOISE, "r"),
    "dpmpp_2m": (),
    "dpmpp_2m_sde": (*NOISE, "solver_type"),
    "dpmpp_3m_sde": NOISE,
    "ipndm": ("max_order",),
    "ipndm_v": ("max_order",),
    "deis": ("max_order", "deis_mode"),
    "res_multistep": ("s_noise", "noise_sampler"),
    "res_multistep_ancestral": NOISE,
    "gradient_estimation": ("ge_gamma", "cfg_pp"),
    "euler_cfg_pp": (),
    "euler_ancestral_cfg_pp": NOISE,
    "dpmpp_2s_ancestral_cfg_pp": NOISE,
    "dpmpp_2m_cfg_pp": (),
    "res_multistep_cfg_pp": ("s_noise", "noise_sampler"),
    "res_multistep_ancestral_cfg_pp": NOISE,
    "gradient_estimation_cfg_pp": ("ge_gamma",),
    "er_sde": ("s_noise", "noise_sampler", "noise_scaler", "max_stage"),
    "seeds_2": (*NOISE, "r", "solver_type"),
    "seeds_3": (*NOISE, "r_1", "r_2"),
    "exp_heun_2_x0": ("solver_type",),
    "exp_heun_2_x0_sde": (*NOISE, "solver_type"),
    "heunpp2": CHURN,
    "ddpm": ("noise_sampler",),
    "lcm": ("noise_sampler",),
    "dpmpp_sde_gpu": (*NOISE, "r"),
    "dpmpp_2m_sde_gpu": (*NOISE, "solver_type"),
    "dpmpp_2m_sde_heun": (*NOISE, "solver_type"),
    "dpmpp_2m_sde_heun_gpu": (*NOISE, "solver_type"),
    "dpmpp_3m_sde_gpu": NOISE,
    "sa_solver": (*SA, "use_pece", "simple_order_2"),
    "sa_solver_pece": (*SA, "simple_order_2"),
}
OF_DEFAULT_NOISE = [
    "euler_ancestral", "dpm_2_ancestral", "dpmpp_2s_ancestral", "seeds_2", "seeds_3", "er_sde",
    "res_multistep_ancestral", "euler_ancestral_cfg_pp", "dpmpp_2s_ancestral_cfg_pp", "res_multistep_ancestral_cfg_pp",
    "ddpm", "lcm", "sa_solver", "sa_solver_pece", "exp_heun_2_x0_sde",
]  # fmt: skip


def start(count=4):
    return SIGMAS[0] * torch.randn(count, 5, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def host():
    """A host with fastdiff in it."""
    sampling, tables = new_host()
    handle = kdiffusion.register(sampling, tables)
    yield sampling
    handle.undo()


@pytest.mark.parametrize("name", COMFYUI)
def test_every_argument_of_comfyuis_function_is_taken_in_its_place(name):
    first = ("model", "x", "sigmas", "extra_args", "callback", "disable")
    found = inspect.signature(getattr(kdiffusion, f"sample_{name}")).parameters
    assert tuple(found) == (*first, *COMFYUI[name])


def test_a_registered_function_shows_its_own_signature_and_name(host):
    assert inspect.signature(host.sample_euler) == inspect.signature(kdiffusion.sample_euler)
    assert host.sample_euler.__name__ == "sample_euler"
    assert host.sample_euler.__doc__ == kdiffusion.sample_euler.__doc__


@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_gradient_estimation_cfg_pp_is_the_hosts_own(host, scale):
    model = HostModel(EPS(), uncond=0.7, scale=scale)
    plain, _ = new_host()
    ours = host.sample_gradient_estimation_cfg_pp(model, start(), SIGMAS, {}, disable=True)
    theirs = plain.sample_gradient_estimation_cfg_pp(model, start(), SIGMAS, {}, disable=True)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-4)


def test_cfg_pp_keeps_the_callers_hooks_and_arguments():
    calls = []
    options = {"sampler_post_cfg_function": [lambda args: calls.append(1) or args["denoised"]]}
    extra = {"model_options": options, "seed": 3}
    seen = []
    kdiffusion.sample_gradient_estimation(
        HostModel(EPS(), uncond=0.5, scale=2.0), start(), SIGMAS, extra, seen.append, True, cfg_pp=True
    )
    assert len(calls) == len(SIGMAS) - 1
    assert extra["model_options"] is options
    assert len(options["sampler_post_cfg_function"]) == 1
    assert len(seen) == len(SIGMAS) - 1


def test_cfg_pp_on_a_model_without_guidance_says_so():
    with pytest.raises(ValueError, match="cfg_pp: expected a model with ComfyUI's guidance"):
        kdiffusion.sample_gradient_estimation(
            lambda x, sigma, model_options: x * 0, start(), SIGMAS, {}, disable=True, cfg_pp=True
        )


@pytest.mark.parametrize("solver_type", ["phi_1", "phi_2"])
def test_functions_that_are_not_replaced_may_pass_solver_type_on(host, solver_type):
    ode = host.sample_exp_heun_2_x0(HostModel(EPS()), start(), SIGMAS, {}, disable=True, solver_type=solver_type)
    own = kdiffusion.sample_exp_heun_2_x0(HostModel(EPS()), start(), SIGMAS, disable=True, solver_type=solver_type)
    torch.testing.assert_close(ode, own, rtol=1e-5, atol=1e-4)
    sde = host.sample_exp_heun_2_x0_sde(HostModel(EPS()), start(), SIGMAS, {}, disable=True, solver_type=solver_type)
    assert torch.isfinite(sde).all()
    with pytest.raises(ValueError, match="solver_type: expected 'phi_1' or 'phi_2', got 'x'"):
        host.sample_seeds_2(HostModel(EPS()), start(), SIGMAS, {}, disable=True, solver_type="x")


def test_solver_types_are_the_mean_and_the_taylor_weights():
    """One step with outputs 0 and 1: x = weight of the second output."""
    for r, solver_type in itertools.product((0.5, 1.0), ("phi_1", "phi_2")):
        outputs = iter([0.0, 1.0])
        x = kdiffusion.sample_seeds_2(
            lambda x, sigma, outputs=outputs: torch.full_like(x, next(outputs)),
            torch.zeros(1, 1).double(), torch.tensor([2.0, 1.0]).double(), disable=True, eta=0.0, r=r,
            solver_type=solver_type,
        )  # fmt: skip
        h, phi_1 = math.log(2.0), 0.5
        weight = phi_1 / (2 * r) if solver_type == "phi_1" else (1 - phi_1 / h) / r
        assert float(x) == pytest.approx(weight, rel=1e-9)


def test_the_hosts_tree_reaches_the_function_that_its_gpu_variant_calls(host):
    drawn = [host.sample_dpmpp_2m_sde_gpu(HostModel(EPS()), start(), SIGMAS, {"seed": 5}, disable=True) for _ in "ab"]
    assert torch.equal(*drawn)
    other = host.sample_dpmpp_2m_sde_gpu(HostModel(EPS()), start(), SIGMAS, {"seed": 6}, disable=True)
    assert not torch.equal(drawn[0], other)


def test_the_brownian_sampler_takes_the_hosts_argument_for_where_it_runs():
    x = torch.zeros(2, 5)
    a, b = (kdiffusion.BrownianTreeNoiseSampler(x, 0.1, 9.0, seed=3, cpu=cpu)(5.0, 2.0) for cpu in (True, False))
    assert torch.equal(a, b)


def test_a_noise_scaler_is_called_with_tensors(host):
    kinds = set()

    def scaler(level):
        kinds.add(type(level))
        return level * ((level**0.3).exp() + 10.0)

    sample = kdiffusion.sample_er_sde
    noise = {"noise_sampler": lambda *_: torch.ones(4, 5)}
    drawn = [sample(HostModel(EPS()), start(), SIGMAS, disable=True, noise_scaler=s, **noise) for s in (scaler, None)]
    torch.testing.assert_close(*drawn)
    assert kinds == {torch.Tensor}


@pytest.mark.parametrize("flow", [False, True])
def test_the_same_seed_gives_the_hosts_own_picture(host, flow):
    plain, _ = new_host()
    model = HostModel(ModelSamplingFlow() if flow else EPS())
    sigmas = flow_levels(8) if flow else SIGMAS
    x = torch.randn(4, 5) * sigmas[0]
    drawn = [m.sample_euler_ancestral(model, x, sigmas, {"seed": 11}, disable=True, eta=0.8) for m in (plain, host)]
    torch.testing.assert_close(*drawn, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("name", OF_DEFAULT_NOISE)
def test_noise_is_the_hosts_default(host, name):
    asked = []

    def default_noise_sampler(x, seed=None):
        asked.append(seed)
        return lambda *_: torch.ones_like(x)

    host.default_noise_sampler = default_noise_sampler
    ours = getattr(host, f"sample_{name}")(HostModel(EPS()), start(), SIGMAS, {"seed": 8}, disable=True)
    given = getattr(kdiffusion, f"sample_{name}")(
        HostModel(EPS()), start(), SIGMAS, disable=True, noise_sampler=lambda *_: torch.ones(4, 5)
    )
    assert torch.equal(ours, given)
    assert asked == [8]
    host.default_noise_sampler = lambda x: lambda *_: torch.ones_like(x)  # k-diffusion's own knows no seed
    assert torch.equal(getattr(host, f"sample_{name}")(HostModel(EPS()), start(), SIGMAS, {}, disable=True), given)


class PerImage:
    """What Stable Diffusion web UI puts into `k_diffusion.sampling.torch`: randn_like from each image's own seed."""

    def __init__(self, seeds):
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def __getattr__(self, name):
        return getattr(torch, name)

    def randn_like(self, x):
        rows = [torch.randn(x.shape[1:], generator=g, dtype=x.dtype) for g in self.generators]
        return torch.stack(rows)


STOCHASTIC = [*OF_DEFAULT_NOISE, "dpmpp_sde", "dpmpp_2m_sde", "dpmpp_3m_sde"]


@pytest.mark.parametrize("name", [*STOCHASTIC, "euler", "heun", "heunpp2", "dpm_2", "dpm_fast", "dpm_adaptive"])
def test_noise_follows_each_images_seed_where_the_host_replaces_torch(host, name):
    """Equal calls agree, one image's noise does not depend on the batch, and other seeds give other images."""
    function = getattr(host, f"sample_{name}")
    known = inspect.signature(getattr(kdiffusion, f"sample_{name}")).parameters
    options = {option: value for option, value in {"s_churn": 3.0, "eta": 1.0}.items() if option in known}
    ends = (0.05, 14.6, 9) if name == "dpm_fast" else (SIGMAS,)

    def draw(seeds):
        host.torch = PerImage(seeds)
        x = start(3)[[seed - 1 for seed in seeds]]
        if name == "dpm_adaptive":  # its steps depend on the batch
            options.update(rtol=1e9, atol=1e9)
        return function(HostModel(EPS()), x, *ends, extra_args={}, disable=True, **options)

    torch.manual_seed(1)
    first = draw([1, 2, 3])
    torch.manual_seed(2)
    assert torch.equal(draw([1, 2, 3]), first)
    torch.testing.assert_close(draw([2]), first[1:2], rtol=1e-5, atol=1e-5)
    host.torch = PerImage([7, 8, 9])
    other = function(HostModel(EPS()), start(3), *ends, extra_args={}, disable=True, **options)
    assert not torch.allclose(other, first)


@pytest.mark.parametrize("name", ["euler_ancestral", "dpm_2_ancestral", "dpmpp_2s_ancestral", "euler"])
def test_a_replaced_torch_gives_one_noise_a_step(host, name):
    class Ones(PerImage):
        count = 0

        def randn_like(self, x):
            Ones.count += 1
            return torch.ones_like(x)

    host.torch = Ones([])
    options = {"s_churn": 3.0} if name == "euler" else {}
    getattr(host, f"sample_{name}")(HostModel(EPS()), start(), SIGMAS, {"seed": 4}, disable=True, **options)
    assert Ones.count == len(SIGMAS) - (1 if options else 2)


def test_a_replaced_torch_that_leaves_randn_like_alone_keeps_the_hosts_default(host):
    host.torch = types.SimpleNamespace(**vars(torch))
    draw = lambda: host.sample_euler_ancestral(HostModel(EPS()), start(), SIGMAS, {"seed": 4}, disable=True)  # noqa: E731
    assert torch.equal(draw(), draw())


def test_outside_a_host_noise_is_not_the_hosts(host):
    host.torch = PerImage([1, 2, 3, 4])
    torch.manual_seed(1)
    first = kdiffusion.sample_euler_ancestral(HostModel(EPS()), start(), SIGMAS, disable=True)
    torch.manual_seed(2)
    assert not torch.equal(kdiffusion.sample_euler_ancestral(HostModel(EPS()), start(), SIGMAS, disable=True), first)


# Names.


def state(*modules):
    """Everything in them, by identity."""
    tables = [list(v) if isinstance(v, list) else v for m in modules for _, v in sorted(vars(m).items())]
    return [sorted(vars(m)) for m in modules], tables, set(modules[1].KSampler.DISCARD_PENULTIMATE_SIGMA_SAMPLERS)


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))), ids=str)
@pytest.mark.parametrize("prefixes", [("", "", ""), ("", "fd_", "fd_"), ("fd_", "x_", "")], ids=str)
def test_registrations_undone_in_any_order_leave_the_host_as_it_was(prefixes, order):
    host, tables = new_host()
    before = state(host, tables)
    handles = [kdiffusion.register(host, tables, prefix=prefix) for prefix in prefixes]
    for i in order[:2]:
        handles[i].undo()
        handles[i].undo()  # a second time changes nothing
    last = f"sample_{prefixes[order[2]]}dpmpp_3m_sde"
    assert inspect.signature(getattr(host, last)) == inspect.signature(kdiffusion.sample_dpmpp_3m_sde)
    handles[order[2]].undo()
    assert state(host, tables) == before


def test_who_wrapped_a_registered_function_gets_the_hosts_after_undo():
    host, tables = new_host()
    handle = kdiffusion.register(host, tables)
    ours = host.sample_euler
    calls = []

    def wrapper(*args, **kwargs):
        calls.append(args)
        return ours(*args, **kwargs)

    host.sample_euler = wrapper
    again = kdiffusion.register(host, tables)
    assert host.sample_euler is not wrapper
    handle.undo()
    again.undo()
    assert host.sample_euler is wrapper
    plain, _ = new_host()
    model, x = HostModel(EPS()), start()
    assert torch.equal(host.sample_euler(model, x, SIGMAS), plain.sample_euler(model, x, SIGMAS))
    assert len(calls) == 1


def test_without_a_prefix_names_the_host_serves_otherwise_are_left_alone():
    host, tables = new_host()
    handle = kdiffusion.register(host, tables)
    assert not hasattr(host, "sample_uni_pc")
    assert not hasattr(host, "sample_uni_pc_bh2")
    assert list(handle.left) == ["uni_pc", "uni_pc_bh2"]
    assert "left alone uni_pc (the host does not look it up among its functions), uni_pc_bh2" in repr(handle)
    assert tables.SAMPLER_NAMES.count("uni_pc") == 1
    assert "uni_pc" not in tables.KSAMPLER_NAMES
    assert "heun" in tables.KSAMPLER_NAMES
    assert "replaced sample_euler, sample_dpm_2" in repr(handle)
    handle.undo()


def test_uni_pc_is_replaced_in_the_module_that_the_host_calls():
    host, tables = new_host()
    own = lambda model, noise, sigmas, extra_args=None, callback=None, disable=False, variant="bh1": None  # noqa: E731
    tables.uni_pc = types.ModuleType("uni_pc")
    tables.uni_pc.sample_unipc = own
    tables.uni_pc.sample_unipc_bh2 = own
    handle = kdiffusion.register(host, tables)
    assert handle.left == {}
    model, x = HostModel(EPS()), start()
    for variant, function in (("bh1", kdiffusion.sample_uni_pc), ("bh2", kdiffusion.sample_uni_pc_bh2)):
        sigmas = SIGMAS.clone()
        drawn = tables.uni_pc.sample_unipc(model, x, sigmas, extra_args={}, disable=True, variant=variant)
        assert torch.equal(drawn, function(model, x, SIGMAS, disable=True))
        assert torch.equal(sigmas, SIGMAS)  # ComfyUI's writes 0.001 into it
    assert torch.equal(tables.uni_pc.sample_unipc_bh2(model, x, SIGMAS, disable=True), drawn)
    with pytest.raises(ValueError, match="variant: expected 'bh1' or 'bh2', got 'x'"):
        tables.uni_pc.sample_unipc(model, x, SIGMAS, variant="x")
    handle.undo()
    assert tables.uni_pc.sample_unipc is own
    assert tables.uni_pc.sample_unipc_bh2 is own


@pytest.mark.parametrize("name", ["dpmpp_sde", "dpmpp_2m_sde", "dpmpp_3m_sde", "dpmpp_2m_sde_heun_gpu"])
def test_with_seed_compat_sde_samplers_draw_from_the_hosts_tree(name):
    host, tables = new_host()
    made = []

    class Tree(host.BrownianTreeNoiseSampler):
        def __init__(self, x, sigma_min, sigma_max, seed=None, cpu=False):
            made.append((float(sigma_min), float(sigma_max), seed, cpu))

        def __call__(self, sigma, sigma_next):
            return torch.ones(4, 5)

    host.BrownianTreeNoiseSampler = Tree
    draw = lambda **options: getattr(host, f"sample_{name}")(  # noqa: E731
        HostModel(EPS()), start(), SIGMAS, {"seed": 5}, disable=True, **options
    )
    handle = kdiffusion.register(host, tables, seed_compat=True)
    drawn = draw()
    assert torch.equal(drawn, draw(noise_sampler=lambda *_: torch.ones(4, 5)))
    assert made == [(float(SIGMAS[-2]), float(SIGMAS[0]), 5, not name.endswith("_gpu"))]
    handle.undo()
    handle = kdiffusion.register(host, tables)
    assert not torch.equal(draw(), drawn)
    assert len(made) == 1
    handle.undo()


def test_seed_compat_needs_a_tree_and_cannot_change_under_a_registration():
    host, tables = new_host()
    handle = kdiffusion.register(host, tables)
    with pytest.raises(ValueError, match="seed_compat: sample_euler is registered with False; undo that first"):
        kdiffusion.register(host, tables, seed_compat=True)
    beside = kdiffusion.register(host, tables, prefix="fd_", seed_compat=True)
    beside.undo()
    handle.undo()
    del host.BrownianTreeNoiseSampler
    with pytest.raises(ValueError, match="seed_compat: sampling has no BrownianTreeNoiseSampler to draw from"):
        kdiffusion.register(host, tables, seed_compat=True)


def test_with_seed_compat_heunpp2_draws_before_its_window_as_the_host_does():
    host, tables = new_host()
    sigmas = SIGMAS.tolist()
    window = {"s_churn": 3.0, "s_tmin": 1.0, "s_tmax": 5.5}
    drawn = {}
    for seed_compat in (False, True):
        handle = kdiffusion.register(host, tables, seed_compat=seed_compat)
        torch.manual_seed(8)
        drawn[seed_compat] = host.sample_heunpp2(HostModel(EPS()), start(), SIGMAS, {}, disable=True, **window)
        handle.undo()
    torch.manual_seed(8)
    for _ in range(sum(sigma > 5.5 for sigma in sigmas)):
        torch.randn_like(start())
    later = kdiffusion.sample_heunpp2(HostModel(EPS()), start(), SIGMAS, {}, disable=True, **window)
    assert torch.equal(drawn[True], later)
    assert not torch.equal(drawn[False], later)


def called_as_comfyui_does(host, name):
    """By its name, with levels, whatever the sampler; dpm_fast and dpm_adaptive are special in it by name alone."""
    x = MEAN + 80 * torch.randn(40, 100, generator=torch.Generator().manual_seed(1))
    return getattr(host, f"sample_{name}")(
        HostModel(EPS()), x, kdiffusion.get_sigmas_karras(30, 0.03, 80.0),
        extra_args={"seed": 1}, callback=None, disable=True,
    )  # fmt: skip


def test_every_name_with_a_prefix_works_as_a_name_of_the_menu():
    host, tables = new_host()
    handle = kdiffusion.register(tables, host, prefix="fd_")
    names = [name for name in tables.SAMPLER_NAMES if name.startswith("fd_")]
    assert {n.removeprefix("fd_") for n in names} == {
        n.removeprefix("sample_") for n in kdiffusion.__all__ if n.startswith("sample_")
    }
    assert [n for n in tables.KSAMPLER_NAMES if n.startswith("fd_")] == names
    spread = {}
    for name in names:
        drawn = called_as_comfyui_does(host, name)
        assert torch.isfinite(drawn).all()
        spread[name] = float(drawn.std())
        assert float(drawn.mean()) == pytest.approx(MEAN, abs=0.4)
    names.remove("fd_lcm")  # it draws the data's law with a consistency model, which this is not
    assert {name: spread[name] for name in names} == pytest.approx(dict.fromkeys(names, STD), abs=0.6)
    handle.undo()
    assert not any("fd_" in name for name in [*vars(host), *tables.SAMPLER_NAMES])


def test_a_prefixed_name_is_laid_out_as_the_one_it_stands_beside():
    host, tables = new_host()
    special = tables.KSampler.DISCARD_PENULTIMATE_SIGMA_SAMPLERS
    handle = kdiffusion.register(host, tables, prefix="fd_")
    assert special == {"dpm_2", "uni_pc", "fd_dpm_2", "fd_uni_pc"}
    handle.undo()
    assert special == {"dpm_2", "uni_pc"}


def test_dpm_fast_on_levels_takes_a_call_a_step_to_the_last_level_above_zero():
    host, tables = new_host()
    handle = kdiffusion.register(host, tables, prefix="fd_")
    model, seen = HostModel(EPS()), []
    drawn = host.sample_fd_dpm_fast(model, start(), SIGMAS, {}, seen.append, True)
    direct = kdiffusion.sample_dpm_fast(HostModel(EPS()), start(), SIGMAS[-2], SIGMAS[0], 6, disable=True)
    assert torch.equal(drawn, direct)
    assert len(model.told) == 6
    assert seen
    handle.undo()


def test_modules_that_cannot_be_registered_are_named():
    host, tables = new_host()
    with pytest.raises(ValueError, match="inspect has neither sample_"):
        kdiffusion.register(host, inspect)
    with pytest.raises(ValueError, match="modules: expected one with sample_"):
        kdiffusion.register(tables)
    assert host.sample_euler is not kdiffusion.sample_euler
    assert "heun" not in tables.KSAMPLER_NAMES
