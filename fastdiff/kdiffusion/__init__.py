"""k-diffusion's functions on fastdiff's plans: `from fastdiff import kdiffusion as sampling` in a k-diffusion script.

The functions are those of crowsonkb/k-diffusion (`sampling.py`) and of ComfyUI's copy of it; `samplers` describes their
arguments. `register(module)` installs them in a host, where they draw the host's noise (`host`) and recognise its
rectified-flow models (`flow`). Given the same noise, samples agree to rounding, except for

    lms                     ComfyUI's last step, to sigma 0, is of first order; k-diffusion's and this one keep theirs
    ipndm_v                 ComfyUI's weights of orders 3 and 4 do not reproduce polynomials; these do
    er_sde                  ComfyUI sums its integrals over 200 points (0.004 off); these are exact to rounding
    deis, max_order below 3 ComfyUI raises; here the order is lower
    uni_pc                  ComfyUI stops at sigma = 0.001 and writes that into the caller's sigmas; this goes to 0
    dpmpp_2m_sde, _3m_sde   a single step to 0 raises in k-diffusion; here it is the model's output
    dpmpp_2s_ancestral      on a rectified flow ComfyUI evaluates twice near sigma 1, 1e-4 apart; here once
    dpmpp_*sde's own noise  a Brownian path per sample's seed instead of torchsde's tree: same law, other numbers
    s_churn, and the eta    on a rectified flow ComfyUI adds noise as if alpha were 1, and the law is lost (std 17 for
    of dpm_fast, _adaptive  2.7); here sigma / alpha is churned, and noise leads up by the forward process
    rising sigmas, noise    k-diffusion returns the model's output or NaN; here x goes up by the forward process
    repeated sigmas         multistep solvers give NaN in ComfyUI; here the step is empty and costs no evaluation
    half precision          with float32 sigmas k-diffusion's x becomes float32 in some samplers, and the model is given
                            it; here x and what the model is given keep x's dtype, and the state between is float32
"""

from .brownian import BrownianPath, BrownianTreeNoiseSampler
from .fitted import plan_sampler
from .likelihood import log_likelihood
from .noise import default_noise_sampler
from .registration import Registration, register
from .samplers import (
    sample_deis,
    sample_dpm_2,
    sample_dpm_2_ancestral,
    sample_dpmpp_2m,
    sample_dpmpp_2m_sde,
    sample_dpmpp_2s_ancestral,
    sample_dpmpp_3m_sde,
    sample_dpmpp_sde,
    sample_er_sde,
    sample_euler,
    sample_euler_ancestral,
    sample_exp_heun_2_x0,
    sample_gradient_estimation,
    sample_heun,
    sample_ipndm,
    sample_ipndm_v,
    sample_lms,
    sample_res_multistep,
    sample_seeds_2,
    sample_seeds_3,
    sample_uni_pc,
    sample_uni_pc_bh2,
)
from .sigmas import (
    append_zero,
    get_ancestral_step,
    get_sigmas_exponential,
    get_sigmas_karras,
    get_sigmas_laplace,
    get_sigmas_polyexponential,
    get_sigmas_vp,
    to_d,
)
from .steps import sample_dpm_adaptive, sample_dpm_fast

__all__ = [
    "BrownianPath",
    "BrownianTreeNoiseSampler",
    "Registration",
    "append_zero",
    "default_noise_sampler",
    "get_ancestral_step",
    "get_sigmas_exponential",
    "get_sigmas_karras",
    "get_sigmas_laplace",
    "get_sigmas_polyexponential",
    "get_sigmas_vp",
    "log_likelihood",
    "plan_sampler",
    "register",
    "sample_deis",
    "sample_dpm_2",
    "sample_dpm_2_ancestral",
    "sample_dpm_adaptive",
    "sample_dpm_fast",
    "sample_dpmpp_2m",
    "sample_dpmpp_2m_sde",
    "sample_dpmpp_2s_ancestral",
    "sample_dpmpp_3m_sde",
    "sample_dpmpp_sde",
    "sample_er_sde",
    "sample_euler",
    "sample_euler_ancestral",
    "sample_exp_heun_2_x0",
    "sample_gradient_estimation",
    "sample_heun",
    "sample_ipndm",
    "sample_ipndm_v",
    "sample_lms",
    "sample_res_multistep",
    "sample_seeds_2",
    "sample_seeds_3",
    "sample_uni_pc",
    "sample_uni_pc_bh2",
    "to_d",
]
