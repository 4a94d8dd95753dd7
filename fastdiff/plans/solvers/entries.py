"""The catalogue's entries: every solver with its order, its cost, its source and its other names."""

from __future__ import annotations

from functools import partial

from .adams import adams, gradient_estimation
from .adams_moulton import adams_moulton
from .ancestral import ddim
from .consistency import consistency, tcd
from .deis import deis
from .dpm_solver_v3 import dpm_solver_v3
from .entry import Solver
from .er_sde import er_sde
from .exponential import multistep, singlestep
from .karras import dpm_2, dpm_2_ancestral, euler, heun, midpoint
from .pndm import pndm
from .restart import restart
from .sa_solver import sa_solver
from .sde import dpmpp_2s_ancestral, dpmpp_sde
from .seeds import seeds
from .unipc import unipc

_DDIM = "Song et al. 2021, arXiv 2010.02502"
_DDPM = "Ho et al. 2020, arXiv 2006.11239"
_EDM = "Karras et al. 2022, arXiv 2206.00364"
_DPM = "Lu et al. 2022, arXiv 2206.00927"
_DPMPP = "Lu et al. 2022, arXiv 2211.01095"
_V3 = "Zheng et al. 2023, arXiv 2310.13268"
_UNIPC = "Zhao et al. 2023, arXiv 2302.04867"
_DEIS = "Zhang & Chen 2023, arXiv 2204.13902"
_PNDM = "Liu et al. 2022, arXiv 2202.09778"
_IPNDM_V = "Zhou et al. 2024, arXiv 2312.00094"
_LCM = "Luo et al. 2023, arXiv 2310.04378"
_CM = "Song et al. 2023, arXiv 2303.01469"
_DAPS = "Zhang et al. 2024, arXiv 2407.01521"
_TCD = "Zheng et al. 2024, arXiv 2402.19159"
_ABM = "Hairer, Norsett & Wanner 1993, III.1"
_FLOW = "Lipman et al. 2023, arXiv 2210.02747"
_RES = "Zhang et al. 2023, arXiv 2308.02157"
_GE = "Permenter & Yuan 2024, arXiv 2306.04848"
_SEEDS = "Gonzalez et al. 2023, arXiv 2305.14267"
_SA = "Xue et al. 2023, arXiv 2309.05019"
_ER_SDE = "Cui et al. 2023, arXiv 2309.06169"
_RESTART = "Xu et al. 2023, arXiv 2306.14878"

SOLVERS = (
    # First order: DDIM, and what it is called with and without fresh noise.
    Solver("ddim", ddim, 1, 1, _DDIM, ("DDIMScheduler", "dpm_solver_1", "dpmpp_1")),
    Solver("ddpm", partial(ddim, eta=1.0), 1, 1, _DDPM, ("DDPMScheduler",), True),
    Solver(
        "euler", euler, 1, 1, _EDM,
        ("EulerDiscreteScheduler", "FlowMatchEulerDiscreteScheduler", "FlowMapEulerDiscreteScheduler"),
    ),
    Solver(
        "euler_ancestral", partial(ddim, eta=1.0), 1, 1, _EDM, ("Euler a", "EulerAncestralDiscreteScheduler"), True
    ),
    # Runge-Kutta in the noise level, two evaluations a step.
    Solver("heun", heun, 2, 2, _EDM, ("HeunDiscreteScheduler", "FlowMatchHeunDiscreteScheduler"), from_clean=True),
    Solver("dpm_2", dpm_2, 2, 2, _EDM, ("DPM2", "KDPM2DiscreteScheduler"), from_clean=True),
    Solver("dpm_2_ancestral", dpm_2_ancestral, 2, 2, _EDM, ("DPM2 a", "KDPM2AncestralDiscreteScheduler"), True),
    # Exponential integrators of eps: singlestep (s) and multistep (m).
    Solver("dpm_solver_2s", partial(singlestep, order=2, form="noise"), 2, 2, _DPM, ("DPM-Solver-2",)),
    Solver("dpm_solver_3s", partial(singlestep, order=3, form="noise"), 3, 3, _DPM, ("DPM-Solver-3",)),
    Solver("dpm_solver_2m", partial(multistep, order=2, form="noise"), 2, 1, _DPM),
    Solver("dpm_solver_3m", partial(multistep, order=3, form="noise"), 2, 1, _DPM),
    Solver("dpm_solver_3m_exact", partial(multistep, order=3, form="noise", exact=True), 3, 1, _DPM),
    # The same of x0, ODE and SDE.
    Solver("dpmpp_2s", partial(singlestep, order=2), 2, 2, _DPMPP, ("DPM++ 2S", "DPMSolverSinglestepScheduler")),
    Solver("dpmpp_3s", partial(singlestep, order=3), 3, 3, _DPMPP, ("DPM++ 3S",)),
    Solver("dpmpp_2m", partial(multistep, order=2), 2, 1, _DPMPP, ("DPM++ 2M", "DPMSolverMultistepScheduler")),
    Solver("dpmpp_3m", partial(multistep, order=3), 2, 1, _DPMPP, ("DPM++ 3M",)),
    Solver("dpmpp_3m_exact", partial(multistep, order=3, exact=True), 3, 1, _DPMPP),
    Solver("dpmpp_sde", dpmpp_sde, 2, 2, _DPMPP, ("DPM++ SDE", "DPMSolverSDEScheduler"), True),
    Solver("dpmpp_2s_ancestral", dpmpp_2s_ancestral, 2, 2, _DPMPP, ("DPM++ 2S a",), True),
    Solver("dpmpp_2m_sde", partial(multistep, order=2, eta=1.0), 2, 1, _DPMPP, ("DPM++ 2M SDE",), True),
    # k-diffusion's second step, the one with a single earlier output, is in the Taylor form.
    Solver(
        "dpmpp_3m_sde", partial(multistep, order=3, eta=1.0, correction="heun"), 2, 1, _DPMPP, ("DPM++ 3M SDE",), True
    ),
    # Predictor and corrector in one row.
    Solver("unipc", unipc, 3, 1, _UNIPC, ("UniPC", "uni_pc_bh2", "UniPCMultistepScheduler")),
    Solver("unipc_bh1", partial(unipc, variant="bh1"), 3, 1, _UNIPC, ("uni_pc",)),
    # Adams-Bashforth: in the noise level, of eps in another variable, with classical weights.
    Solver(
        "lms", partial(adams, lower_order_final=False), 4, 1, "Katherine Crowson, k-diffusion",
        ("LMSDiscreteScheduler",), max_order=8, from_clean=True,
    ),
    Solver("ipndm", partial(adams, equal_steps=True), 2, 1, _DEIS, ("IPNDMScheduler",), max_order=4, from_clean=True),
    Solver("ipndm_v", adams, 4, 1, _IPNDM_V, max_order=8, from_clean=True),
    Solver("adams_moulton", adams_moulton, 3, 1, _ABM, ("ABM",), max_order=4),
    Solver("deis", partial(deis, variable="time"), 3, 1, _DEIS, ("deis_tab", "DEIS-tAB"), max_order=4),
    Solver("deis_rhoab", partial(deis, variable="rho"), 3, 1, _DEIS, ("DEIS-rhoAB",), max_order=4),
    Solver(
        "deis_log_rho", partial(deis, variable="log_rho", lower_order_final=True), 3, 1, _DEIS,
        ("DEISMultistepScheduler",), max_order=4,
    ),
    Solver("pndm", pndm, 2, 1, _PNDM, ("PNDMScheduler",), extra_nfe=9),
    Solver("plms", partial(pndm, runge_kutta=False), 2, 1, _PNDM, extra_nfe=1),
    # Models that map noise to data; more steps only refresh.
    Solver("lcm", consistency, 0, 1, _LCM, ("LCMScheduler", "FlowMatchLCMScheduler"), True),
    Solver("renoise", partial(consistency, noise_left=0.0), 0, 1, _DAPS, stochastic=True),
    Solver("consistency", consistency, 0, 1, _CM, ("CMStochasticIterativeScheduler", "SCMScheduler"), True),
    Solver("tcd", tcd, 0, 1, _TCD, ("TCDScheduler",), True),
    # Others, in the order in which they came.
    Solver("midpoint", midpoint, 2, 2, _FLOW, from_clean=True),
    Solver("res_multistep", partial(multistep, order=2, correction="heun", lower_order_final=False), 2, 1, _RES),
    Solver("gradient_estimation", gradient_estimation, 1, 1, _GE),
    Solver("exp_heun", partial(singlestep, order=2, correction="heun", r1=1.0), 2, 2, _DPMPP, ("exp_heun_2_x0",)),
    Solver(
        "exp_heun_sde", partial(seeds, correction="heun", r1=1.0), 2, 2, _SEEDS, ("exp_heun_2_x0_sde",), True
    ),
    Solver("seeds_2", seeds, 2, 2, _SEEDS, ("SEEDS-2",), True),
    Solver("seeds_3", partial(seeds, order=3), 2, 3, _SEEDS, ("SEEDS-3",), True),
    Solver("sa_solver", sa_solver, 2, 1, _SA, ("SASolverScheduler",), True),
    Solver("sa_solver_pece", partial(sa_solver, pece=True), 2, 2, _SA, (), True, extra_nfe=-1),
    Solver("er_sde", er_sde, 2, 1, _ER_SDE, ("er_sde_3",), True),
    Solver("dpm_solver_v3", dpm_solver_v3, 3, 1, _V3, ("DPM-Solver-v3",)),
    Solver("restart", restart, 2, 2, _RESTART, (), True, extra_nfe=14),
)  # fmt: skip
