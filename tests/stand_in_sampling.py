"""A host's module of samplers in ComfyUI's calling convention, as small as can be; `hosts.new_host` loads it afresh.

Its functions call each other through the module's globals, and read `model.inner_model.inner_model.model_sampling`.
"""

import itertools

import torch


def default_noise_sampler(x, seed=None):
    generator = None if seed is None else torch.Generator(x.device).manual_seed(seed)
    return lambda sigma, sigma_next: torch.randn(x.shape, generator=generator, dtype=x.dtype)


class BrownianTreeNoiseSampler:
    def __init__(self, x, sigma_min, sigma_max, seed=None, transform=lambda sigma: sigma, cpu=False):
        self.sampler = default_noise_sampler(x, seed)

    def __call__(self, sigma, sigma_next):
        return self.sampler(sigma, sigma_next)


def sample_euler(
    model, x, sigmas, extra_args=None, callback=None, disable=None, s_churn=0.0, s_tmin=0.0, s_tmax=1e9, s_noise=1.0
):
    for sigma, sigma_next in itertools.pairwise(sigmas):
        gamma = min(s_churn / (len(sigmas) - 1), 2**0.5 - 1) if s_tmin <= sigma <= s_tmax else 0.0
        high = sigma * (1 + gamma)
        x = x + torch.randn_like(x) * s_noise * (high**2 - sigma**2) ** 0.5 if gamma else x
        x = x + (sigma_next - high) / high * (x - model(x, high.expand(len(x)), **(extra_args or {})))
    return x


def sample_euler_ancestral(
    model, x, sigmas, extra_args=None, callback=None, disable=None, eta=1.0, s_noise=1.0, noise_sampler=None
):
    extra_args = extra_args or {}
    noise_sampler = noise_sampler or default_noise_sampler(x, seed=extra_args.get("seed"))
    sampling = model.inner_model.inner_model.model_sampling
    flow = type(sampling).__mro__[-2].__name__ == "CONST"
    for s, t in itertools.pairwise(sigmas):
        denoised = model(x, s.expand(len(x)), **extra_args)
        if flow:
            down = t * (1 + eta * (t / s - 1))
            kept = (1 - t) / (1 - down)
        else:
            down, kept = (t**2 - eta**2 * t**2 * (1 - (t / s) ** 2)) ** 0.5, 1.0
        x = kept * (down / s * x + (1 - down / s) * denoised)
        x = x + s_noise * (t**2 - (kept * down) ** 2) ** 0.5 * noise_sampler(s, t) if t > 0 and eta else x
    return x


def sample_gradient_estimation(
    model, x, sigmas, extra_args=None, callback=None, disable=None, ge_gamma=2.0, cfg_pp=False
):
    latest = {}

    def hook(args):
        latest["uncond"] = args["uncond_denoised"]
        return args["denoised"]

    extra_args = {**(extra_args or {}), "model_options": {"sampler_post_cfg_function": [hook]}}
    d_before = None
    for s, t in itertools.pairwise(sigmas):
        denoised = model(x, s.expand(len(x)), **extra_args)
        d = (x - (latest["uncond"] if cfg_pp else denoised)) / s
        more = 0.0 if d_before is None or t == 0 else (ge_gamma - 1) * (d - d_before) * (t - s)
        x, d_before = (denoised + t * d if cfg_pp else x + (t - s) * d) + more, d
    return x


def sample_gradient_estimation_cfg_pp(model, x, sigmas, extra_args=None, callback=None, disable=None, ge_gamma=2.0):
    return sample_gradient_estimation(model, x, sigmas, extra_args, callback, disable, ge_gamma=ge_gamma, cfg_pp=True)


def sample_seeds_2(
    model,
    x,
    sigmas,
    extra_args=None,
    callback=None,
    disable=None,
    eta=1.0,
    s_noise=1.0,
    noise_sampler=None,
    r=0.5,
    solver_type="phi_1",
):
    raise NotImplementedError("a registration replaces it")


def sample_exp_heun_2_x0(model, x, sigmas, extra_args=None, callback=None, disable=None, solver_type="phi_2"):
    return sample_seeds_2(
        model, x, sigmas, extra_args, callback, disable, eta=0.0, s_noise=0.0, r=1.0, solver_type=solver_type
    )


def sample_exp_heun_2_x0_sde(
    model,
    x,
    sigmas,
    extra_args=None,
    callback=None,
    disable=None,
    eta=1.0,
    s_noise=1.0,
    noise_sampler=None,
    solver_type="phi_2",
):
    return sample_seeds_2(
        model,
        x,
        sigmas,
        extra_args,
        callback,
        disable,
        eta=eta,
        s_noise=s_noise,
        noise_sampler=noise_sampler,
        r=1.0,
        solver_type=solver_type,
    )


def sample_dpmpp_2m_sde(
    model,
    x,
    sigmas,
    extra_args=None,
    callback=None,
    disable=None,
    eta=1.0,
    s_noise=1.0,
    noise_sampler=None,
    solver_type="midpoint",
):
    raise NotImplementedError("a registration replaces it")


def sample_dpmpp_2m_sde_gpu(model, x, sigmas, extra_args=None, callback=None, disable=None, eta=1.0, s_noise=1.0):
    tree = BrownianTreeNoiseSampler(x, sigmas[-2], sigmas[0], seed=(extra_args or {}).get("seed"), cpu=False)
    return sample_dpmpp_2m_sde(
        model, x, sigmas, extra_args, callback, disable, eta=eta, s_noise=s_noise, noise_sampler=tree
    )


def sample_dpm_2(
    model, x, sigmas, extra_args=None, callback=None, disable=None, s_churn=0.0, s_tmin=0.0, s_tmax=1e9, s_noise=1.0
):
    raise NotImplementedError("a registration replaces it")


def sample_dpm_fast(
    model,
    x,
    sigma_min,
    sigma_max,
    n,
    extra_args=None,
    callback=None,
    disable=None,
    eta=0.0,
    s_noise=1.0,
    noise_sampler=None,
):
    raise NotImplementedError("a registration replaces it")
