"""fastdiff.kdiffusion against k-diffusion: the same arguments give the same samples, calls and callbacks."""

from __future__ import annotations

import inspect
import itertools

import pytest
import torch
from linear_law import law
from peers import difference, network
from torch.utils._python_dispatch import TorchDispatchMode

from fastdiff import kdiffusion
from fastdiff.kdiffusion import loop
from fastdiff.kdiffusion.vp_time import VP_TIME

# k-diffusion's own samplers on noise levels, by name: most tests of them need no k-diffusion.
ON_SIGMAS = [
    f"sample_{name}"
    for name in (
        "dpm_2", "dpm_2_ancestral", "dpmpp_2m", "dpmpp_2m_sde", "dpmpp_2s_ancestral", "dpmpp_3m_sde", "dpmpp_sde",
        "euler", "euler_ancestral", "heun", "lms",
    )
]  # fmt: skip


def takes_noise(name):
    return "noise_sampler" in inspect.signature(getattr(kdiffusion, name)).parameters


SEEDED = [name for name in ON_SIGMAS if takes_noise(name)]
OPTIONS = {
    "sample_euler": [{"s_churn": 9.0, "s_noise": 1.01}, {"s_churn": 9.0, "s_tmin": 0.2, "s_tmax": 9.0}],
    "sample_heun": [{"s_churn": 9.0, "s_noise": 1.01}],
    "sample_dpm_2": [{"s_churn": 9.0, "s_noise": 1.01}],
    "sample_lms": [{"order": 1}, {"order": 2}, {"order": 3}],
    "sample_dpmpp_sde": [{"r": 0.3, "eta": 0.7}],
    "sample_dpmpp_2m_sde": [{"solver_type": "heun"}, {"eta": 0.0}],
    "sample_dpmpp_3m_sde": [{"eta": 0.0}],
    **{
        f"sample_{name}_ancestral": [{"eta": 0.5, "s_noise": 1.02}, {"eta": 0.0}]
        for name in ("euler", "dpm_2", "dpmpp_2s")
    },
}
CASES = [(name, options) for name in ON_SIGMAS for options in ({}, *OPTIONS.get(name, ()))]


def denoise(x, sigma, shift=0.0):
    """A bounded x0, as a trained model's would be."""
    c = (1 + sigma.double() ** 2) ** -0.5
    return (network(x.double() * c.view(-1, 1), c) + shift).to(x.dtype)


def gaussian(x, sigma):
    """The exact denoiser of N(0.3, 0.5^2) data."""
    gain = (0.25 / (0.25 + sigma.double() ** 2)).view(-1, 1)
    return 0.3 + gain * (x - 0.3)


def start(dtype=torch.float64, sigma=14.6):
    return sigma * torch.randn(3, 7, dtype=torch.float64).to(dtype)


def levels(n, dtype=torch.float64, sigma_min=0.03):
    return kdiffusion.get_sigmas_karras(n, sigma_min, 14.6).to(dtype)


def repeatable_noise(like, calls=None):
    """A noise sampler whose noise is a function of the two levels."""

    def sampler(sigma, sigma_next):
        if calls is not None:
            calls.append((float(sigma), float(sigma_next)))
        phase = 12.9898 * float(sigma) + 78.233 * float(sigma_next)
        return torch.sin(phase + torch.arange(like.numel(), dtype=like.dtype).view_as(like) * 1.7) * 2**0.5

    return sampler


@pytest.mark.parametrize(("name", "options"), CASES, ids=str)
def test_every_sampler_gives_k_diffusions_samples_for_any_number_of_steps(name, options, k_diffusion):
    for n in (1, 2, 3, 5, 17, 40):
        if n == 1 and "m_sde" in name:
            continue  # the peer reads a variable before it is set
        x, sigmas = start(), levels(n)
        results = []
        for module in (k_diffusion, kdiffusion):
            noisy = {"noise_sampler": repeatable_noise(x)} if name in SEEDED else {}
            torch.manual_seed(n)
            window = options.get("s_tmax") is not None
            if window and module is k_diffusion:  # draws even where it adds nothing
                torch.randn_like = _only_within(sigmas, options)
            try:
                function = getattr(module, name)
                results.append(function(denoise, x, sigmas, {"shift": 0.1}, disable=True, **noisy, **options))
            finally:
                torch.randn_like = RANDN_LIKE
        assert difference(results[1], results[0]) < 1e-7, n


RANDN_LIKE = torch.randn_like


def _only_within(sigmas, options):
    """randn_like for the peer: zeros without a draw at the steps outside the window."""
    steps = iter(float(s) for s in sigmas)
    inside = lambda s: options["s_tmin"] <= s <= options["s_tmax"]  # noqa: E731
    return lambda x: RANDN_LIKE(x) if inside(next(steps)) else torch.zeros_like(x)


@pytest.mark.parametrize("name", ON_SIGMAS)
def test_float32_agrees_with_k_diffusions_float64(name, k_diffusion):
    x, sigmas = start(torch.float32), levels(12, torch.float32)
    noise = {"noise_sampler": repeatable_noise(x)} if name in SEEDED else {}
    ours = getattr(kdiffusion, name)(lambda *a: gaussian(*a).float(), x, sigmas, disable=True, **noise)
    assert ours.dtype == torch.float32
    theirs = getattr(k_diffusion, name)(gaussian, x.double(), sigmas.double(), disable=True, **noise)
    assert difference(ours, theirs) < 1e-5


def test_a_sampler_called_again_sees_other_sigmas_options_and_edits():
    x, sigmas, other = start(), levels(6), levels(6, sigma_min=0.2)
    calls = [(sigmas, 4), (other, 4), (sigmas, 1), (sigmas, 2), (other, 1)]
    first = []
    for given, order in calls:
        loop._course.cache_clear()
        first.append(kdiffusion.sample_lms(denoise, x, given, order=order, disable=True))
    again = [kdiffusion.sample_lms(denoise, x, given, order=order, disable=True) for given, order in calls * 2]
    assert all(torch.equal(a, b) for a, b in zip(again, first * 2, strict=True))
    assert loop._course.cache_info().hits >= len(calls)
    sigmas.copy_(other)  # in place
    assert torch.equal(kdiffusion.sample_lms(denoise, x, sigmas, disable=True), first[1])


@pytest.mark.parametrize("name", ON_SIGMAS)
def test_half_precision_in_is_half_precision_out_with_a_state_in_float32(name):
    x, sigmas = start(torch.float16), levels(12, torch.float32)
    noise = {"noise_sampler": repeatable_noise(x.float())} if name in SEEDED else {}
    seen = []

    def model(x, sigma):
        seen.append((x.dtype, sigma.dtype))
        return gaussian(x, sigma).to(x.dtype)

    half = getattr(kdiffusion, name)(model, x, sigmas, disable=True, **noise)
    assert half.dtype == torch.float16
    assert set(seen) == {(torch.float16, torch.float16)}
    wide = getattr(kdiffusion, name)(gaussian, x.double(), sigmas, disable=True, **noise)
    assert difference(half.double(), wide) < 2e-2


@pytest.mark.parametrize("name", ON_SIGMAS)
def test_callbacks_see_what_k_diffusions_see(name, k_diffusion):
    x, sigmas = start(), levels(6)
    options = {"s_churn": 5.0} if "s_churn" in inspect.signature(getattr(k_diffusion, name)).parameters else {}
    seen = {}
    for module in (k_diffusion, kdiffusion):
        seen[module], calls, models = [], [], []

        def model(x, sigma, models=models):
            models.append(sigma.clone())
            return denoise(x, sigma)

        if name in SEEDED:
            options["noise_sampler"] = repeatable_noise(x, calls)
        torch.manual_seed(0)
        getattr(module, name)(model, x, sigmas, callback=seen[module].append, disable=True, **options)
        seen[module] += [{"noise": torch.tensor(calls), "model": torch.stack(models)}]
    for theirs, ours in zip(*seen.values(), strict=True):
        assert ours.keys() == theirs.keys()
        for key in theirs:
            torch.testing.assert_close(
                torch.as_tensor(ours[key]), torch.as_tensor(theirs[key]), rtol=1e-6, atol=1e-7, msg=key
            )


def test_these_are_all_of_k_diffusions_samplers(k_diffusion):
    found = {name for name in vars(k_diffusion) if name.startswith("sample_")}
    assert found == {*ON_SIGMAS, "sample_dpm_fast", "sample_dpm_adaptive"}


def test_the_arguments_are_k_diffusions_names_in_its_order_with_its_defaults(k_diffusion):
    for name, theirs in vars(k_diffusion).items():
        if name.startswith(("sample_", "get_sigmas_", "append_zero")):
            expected = inspect.signature(theirs).parameters.values()
            found = inspect.signature(getattr(kdiffusion, name)).parameters.values()
            assert [(p.name, p.default) for p in found] == [(p.name, p.default) for p in expected], name


@pytest.mark.parametrize("name", ["karras", "exponential", "polyexponential", "vp"])
def test_noise_levels_are_k_diffusions(name, k_diffusion):
    ends = () if name == "vp" else (0.03, 14.6)
    for n in (1, 2, 9, 40):
        theirs = getattr(k_diffusion, f"get_sigmas_{name}")(n, *ends)
        ours = getattr(kdiffusion, f"get_sigmas_{name}")(n, *ends)
        assert ours.dtype == theirs.dtype
        # The peer computes in float32, and for "vp" subtracts 1 from a number close to it.
        torch.testing.assert_close(ours, theirs, rtol=1e-3 if name == "vp" else 2e-5, atol=0)


@pytest.mark.parametrize("eta", [0.0, 0.6])
@pytest.mark.parametrize("n", [1, 2, 3, 4, 9, 20])
def test_dpm_fast_is_k_diffusions(n, eta, double, k_diffusion):
    x, seen = start(), {k_diffusion: [], kdiffusion: []}
    results = [
        module.sample_dpm_fast(
            denoise, x, 0.03, 14.6, n, callback=calls.append, disable=True, eta=eta, noise_sampler=_smooth(x)
        )
        for module, calls in seen.items()
    ]
    assert difference(results[1], results[0]) < 1e-9
    for theirs, ours in zip(*seen.values(), strict=True):
        assert ours.keys() == theirs.keys()
        for key in theirs:
            torch.testing.assert_close(
                torch.as_tensor(ours[key]).double(), torch.as_tensor(theirs[key]).double(), rtol=1e-9, atol=1e-9
            )


def _smooth(like):
    """Noise that changes little with the levels, so that rounding of them does not show."""
    return lambda sigma, sigma_next: torch.cos(
        (sigma.double() + sigma_next.double()) + torch.arange(like.numel(), dtype=like.dtype).view_as(like)
    )


@pytest.mark.parametrize("options", [{}, {"order": 2}, {"eta": 0.5}, {"rtol": 0.01, "pcoeff": 0.3, "dcoeff": 0.1}])
def test_dpm_adaptive_takes_k_diffusions_steps(options, double, k_diffusion):
    x, seen = start(), {k_diffusion: [], kdiffusion: []}
    results = [
        module.sample_dpm_adaptive(
            denoise, x, 0.03, 14.6, callback=calls.append, disable=True, noise_sampler=_smooth(x), return_info=True,
            **options,
        )
        for module, calls in seen.items()
    ]  # fmt: skip
    (theirs, their_info), (ours, our_info) = results
    assert our_info == their_info
    assert difference(ours, theirs) < 1e-9
    for a, b in zip(*seen.values(), strict=True):
        assert a.keys() == b.keys()
        assert float(b["h"]) == pytest.approx(float(a["h"]), rel=1e-9)
        assert float(b["error"]) == pytest.approx(float(a["error"]), rel=1e-9)


RISING = levels(300, sigma_min=0.05)[:-1].flip(0)


@pytest.mark.parametrize("name", ["sample_heun", "sample_dpmpp_2m", "sample_lms"])
def test_rising_levels_encode_as_k_diffusion_does(name, k_diffusion):
    x = torch.randn(2, 5, dtype=torch.float64)
    ours, theirs = (getattr(module, name)(denoise, x, RISING, disable=True) for module in (kdiffusion, k_diffusion))
    assert difference(ours, theirs) < 1e-9


def test_rising_levels_encode_and_falling_ones_decode():
    x = torch.randn(2, 5, dtype=torch.float64)
    for name in ("sample_heun", "sample_dpmpp_2m", "sample_lms"):
        sample = getattr(kdiffusion, name)
        encoded = sample(denoise, x, RISING, disable=True)
        assert difference(sample(denoise, encoded, RISING.flip(0), disable=True), x) < 1e-2
    encoded = kdiffusion.sample_dpm_adaptive(denoise, x, 14.6, 0.05, disable=True, rtol=1e-4, atol=1e-5)
    decoded = kdiffusion.sample_dpm_adaptive(denoise, encoded, 0.05, 14.6, disable=True, rtol=1e-4, atol=1e-5)
    assert difference(decoded, x) < 1e-2


MORE = [
    name
    for name in kdiffusion.__all__
    if name.startswith("sample_")
    and name not in [*ON_SIGMAS, "sample_dpm_fast", "sample_dpm_adaptive"]
    and not name.endswith("_gpu")
]


def hosted(model):
    """The model as a host's guider calls it; its unconditional output is its output."""

    def call(x, sigma, model_options=None):
        out = model(x, sigma)
        for hook in (model_options or {}).get("sampler_post_cfg_function", []):
            out = hook({"denoised": out, "uncond_denoised": out})
        return out

    return call


# ComfyUI's dpmpp_2s_ancestral_cfg_pp does not draw the data's law: see docs/deviations.md. LCM wants another model.
@pytest.mark.parametrize("name", [n for n in MORE if n not in ("sample_dpmpp_2s_ancestral_cfg_pp", "sample_lcm")])
def test_comfyuis_samplers_draw_the_datas_law(name):
    first_order = any(part in name for part in ("euler", "gradient", "ddpm", "heunpp"))
    sigmas = levels(120 if first_order else 40)

    def draw(x, noise):
        options = {"noise_sampler": noise} if takes_noise(name) else {}
        return getattr(kdiffusion, name)(hosted(gaussian), x, sigmas, disable=True, **options)

    mean, std = law(draw, 0.3, (0.25 + 14.6**2) ** 0.5)
    assert mean == pytest.approx(0.3, abs=1e-12)
    assert std == pytest.approx(0.5, abs=0.02 if first_order else 0.01)


def test_deis_in_vp_time_reproduces_noise_that_is_a_polynomial_of_it():
    """With eps(sigma) = a + b t(sigma) + c t^2 in the VP time t, order 3 is exact from the third step on."""
    from scipy import integrate

    time = VP_TIME

    def eps(sigma):
        t = time.t_of_log_snr(-torch.as_tensor(sigma, dtype=torch.float64).log().numpy())
        return 0.3 - 1.1 * t + 2.3 * t**2

    def model(x, sigma):
        return x - sigma.view(-1, 1) * torch.as_tensor(eps(sigma)).view(-1, 1)

    sigmas = levels(8)[:-1]
    seen = []
    kdiffusion.sample_deis(model, torch.zeros(1, 1).double(), sigmas, callback=seen.append, disable=True)
    steps = [float(b["x"] - a["x"]) for a, b in itertools.pairwise(seen[2:])]
    exact = [integrate.quad(eps, float(s), float(t))[0] for s, t in itertools.pairwise(sigmas[2:])]
    assert steps == pytest.approx(exact[: len(steps)], rel=1e-6)


class ImagesOwnNoise:
    """What Stable Diffusion web UI puts into `k_diffusion.sampling.torch`."""

    def __init__(self, seeds):
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def __getattr__(self, name):
        return getattr(torch, name)

    def randn_like(self, x):
        return torch.stack([torch.randn(x.shape[1:], generator=g, dtype=x.dtype) for g in self.generators])


@pytest.mark.parametrize("name", ["euler", "heun", "dpm_2", "euler_ancestral", "dpm_2_ancestral", "dpmpp_2s_ancestral"])
def test_registered_samplers_give_the_web_uis_own_images(name, monkeypatch, k_diffusion):
    """In k-diffusion itself, its torch replaced: the same noise a step, so the same images."""
    options = {"s_churn": 3.0} if name in ("euler", "heun", "dpm_2") else {}
    results = []
    for register in (False, True):
        monkeypatch.setattr(k_diffusion, "torch", ImagesOwnNoise([5, 6, 7]))
        handle = kdiffusion.register(k_diffusion) if register else None
        sample = getattr(k_diffusion, f"sample_{name}")
        results.append(sample(denoise, start_of_images(), levels(9), disable=True, **options))
        if register:
            handle.undo()
    assert difference(results[1], results[0]) < 1e-7


@pytest.mark.parametrize("name", ["dpmpp_sde", "dpmpp_2m_sde", "dpmpp_3m_sde"])
def test_with_seed_compat_a_seed_gives_k_diffusions_own_images(name, k_diffusion):
    """In float64: k-diffusion's Brownian tree is asked at the same levels."""
    results = []
    for register in (False, True):
        handle = kdiffusion.register(k_diffusion, seed_compat=True) if register else None
        sample = getattr(k_diffusion, f"sample_{name}")
        torch.manual_seed(3)  # from which the tree takes its seed
        results.append(sample(denoise, start_of_images(), levels(5), disable=True))
        if register:
            handle.undo()
    assert difference(results[1], results[0]) < 1e-7


def start_of_images():
    return 14.6 * torch.randn(3, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


class HostReads(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func.overloadpacket.__name__ in ("_local_scalar_dense", "nonzero", "equal", "is_nonzero")
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", [*ON_SIGMAS, *MORE])
def test_no_sampler_reads_a_value_inside_the_loop(name):
    x, sigmas = start(torch.float32), levels(6, torch.float32)
    with HostReads() as reads:
        getattr(kdiffusion, name)(hosted(lambda x, sigma: x * 0.5), x, sigmas, disable=True)
    assert reads.count == 0


@pytest.mark.parametrize(
    ("sigmas", "message"),
    [
        (torch.tensor([3.0, float("nan"), 0.0]), "sigmas: expected numbers > 0"),
        (torch.tensor([3.0, 0.0, 0.0]), "sigmas: expected numbers > 0"),
        (torch.ones(2, 2), r"sigmas: expected a sequence of noise levels, got shape \(2, 2\)"),
    ],
)
def test_bad_noise_levels_are_refused(sigmas, message):
    with pytest.raises(ValueError, match=message):
        kdiffusion.sample_euler(denoise, start(), sigmas, disable=True)


def test_bad_options_are_refused():
    with pytest.raises(TypeError, match=r"sigmas: expected a torch\.Tensor, got list"):
        kdiffusion.sample_euler(denoise, start(), [1.0, 0.0])
    with pytest.raises(ValueError, match="solver_type: expected 'heun' or 'midpoint', got 'euler'"):
        kdiffusion.sample_dpmpp_2m_sde(denoise, start(), levels(3), solver_type="euler")
    with pytest.raises(ValueError, match="deis_mode"):
        kdiffusion.sample_deis(denoise, start(), levels(3), deis_mode="x")
    with pytest.raises(ValueError, match="sigma_min, sigma_max: expected numbers > 0"):
        kdiffusion.sample_dpm_fast(denoise, start(), 0.0, 1.0, 5)
    with pytest.raises(ValueError, match="eta: expected 0 where the noise level rises"):
        kdiffusion.sample_dpm_adaptive(denoise, start(), 9.0, 1.0, eta=1.0)
