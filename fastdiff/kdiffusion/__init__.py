"""k-diffusion's functions on fastdiff's plans: `from fastdiff import kdiffusion as sampling` in a k-diffusion script.

The functions are those of crowsonkb/k-diffusion (`sampling.py`) and of ComfyUI's copy of it; `samplers` describes their
arguments. `register(module)` installs them in a host, where they draw the host's noise (`host`) and recognise its
rectified-flow models (`flow`).

Given the same noise, samples agree to rounding, except for what docs/deviations.md lists: bugs of the peers, rectified
flows, rising and repeated sigmas, half precision.
"""

from .brownian import BrownianPath, BrownianTreeNoiseSampler
from .cfg_pp import (
    sample_dpmpp_2m_cfg_pp,
    sample_dpmpp_2s_ancestral_cfg_pp,
    sample_euler_ancestral_cfg_pp,
    sample_euler_cfg_pp,
    sample_gradient_estimation_cfg_pp,
    sample_res_multistep_ancestral_cfg_pp,
    sample_res_multistep_cfg_pp,
)
from .fitted import plan_sampler
from .likelihood import log_likelihood
from .noise import default_noise_sampler
from .registration import Registration, register
from .sa_solver import sample_sa_solver, sample_sa_solver_pece
from .samplers import (
    sample_ddpm,
    sample_deis,
    sample_dpm_2,
    sample_dpm_2_ancestral,
    sample_dpmpp_2m,
    sample_dpmpp_2s_ancestral,
    sample_euler,
    sample_euler_ancestral,
    sample_exp_heun_2_x0,
    sample_gradient_estimation,
    sample_heun,
    sample_heunpp2,
    sample_ipndm,
    sample_ipndm_v,
    sample_lcm,
    sample_lms,
    sample_res_multistep,
    sample_res_multistep_ancestral,
    sample_uni_pc,
    sample_uni_pc_bh2,
)
from .schedulers import (
    align_your_steps_scheduler,
    beta_scheduler,
    ddim_scheduler,
    kl_optimal_scheduler,
    linear_quadratic_schedule,
    normal_scheduler,
    simple_scheduler,
)
from .sde import (
    sample_dpmpp_2m_sde,
    sample_dpmpp_2m_sde_gpu,
    sample_dpmpp_2m_sde_heun,
    sample_dpmpp_2m_sde_heun_gpu,
    sample_dpmpp_3m_sde,
    sample_dpmpp_3m_sde_gpu,
    sample_dpmpp_sde,
    sample_dpmpp_sde_gpu,
    sample_er_sde,
    sample_exp_heun_2_x0_sde,
    sample_seeds_2,
    sample_seeds_3,
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
    "align_your_steps_scheduler",
    "append_zero",
    "beta_scheduler",
    "ddim_scheduler",
    "default_noise_sampler",
    "get_ancestral_step",
    "get_sigmas_exponential",
    "get_sigmas_karras",
    "get_sigmas_laplace",
    "get_sigmas_polyexponential",
    "get_sigmas_vp",
    "kl_optimal_scheduler",
    "linear_quadratic_schedule",
    "log_likelihood",
    "normal_scheduler",
    "plan_sampler",
    "register",
    "sample_ddpm",
    "sample_deis",
    "sample_dpm_2",
    "sample_dpm_2_ancestral",
    "sample_dpm_adaptive",
    "sample_dpm_fast",
    "sample_dpmpp_2m",
    "sample_dpmpp_2m_cfg_pp",
    "sample_dpmpp_2m_sde",
    "sample_dpmpp_2m_sde_gpu",
    "sample_dpmpp_2m_sde_heun",
    "sample_dpmpp_2m_sde_heun_gpu",
    "sample_dpmpp_2s_ancestral",
    "sample_dpmpp_2s_ancestral_cfg_pp",
    "sample_dpmpp_3m_sde",
    "sample_dpmpp_3m_sde_gpu",
    "sample_dpmpp_sde",
    "sample_dpmpp_sde_gpu",
    "sample_er_sde",
    "sample_euler",
    "sample_euler_ancestral",
    "sample_euler_ancestral_cfg_pp",
    "sample_euler_cfg_pp",
    "sample_exp_heun_2_x0",
    "sample_exp_heun_2_x0_sde",
    "sample_gradient_estimation",
    "sample_gradient_estimation_cfg_pp",
    "sample_heun",
    "sample_heunpp2",
    "sample_ipndm",
    "sample_ipndm_v",
    "sample_lcm",
    "sample_lms",
    "sample_res_multistep",
    "sample_res_multistep_ancestral",
    "sample_res_multistep_ancestral_cfg_pp",
    "sample_res_multistep_cfg_pp",
    "sample_sa_solver",
    "sample_sa_solver_pece",
    "sample_seeds_2",
    "sample_seeds_3",
    "sample_uni_pc",
    "sample_uni_pc_bh2",
    "simple_scheduler",
    "to_d",
]
