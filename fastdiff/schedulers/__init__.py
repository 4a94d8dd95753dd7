"""diffusers' schedulers on fastdiff's plans: `from fastdiff import X` where a script has `from diffusers import X`.

Each class is a subclass of diffusers' own of that name, whose `step` is one row of a table in one fused call: the
configuration, timesteps and sigmas, add_noise, saving and isinstance checks are inherited, and the same generator gives
the same image. `step` reads no value of a tensor; inside torch.compile it is one opaque op without a graph break (there
with `variance_noise` or torch's own generator, and not inside CUDA graphs).

`runs` says which run a step belongs to, `watch` what a host may change in the middle of one. docs/diffusers.md has what
users can rely on; where diffusers is wrong or fails, fastdiff differs on purpose, and docs/deviations.md has the list.
"""

from __future__ import annotations

try:
    import diffusers  # noqa: F401
except ImportError as error:
    raise ImportError(
        "fastdiff.schedulers: expected diffusers to be installed (pip install diffusers), which these classes extend"
    ) from error

from diffusers import SchedulerMixin  # diffusers looks for it in the module that a saved pipeline names

from .cogvideox_ddim import CogVideoXDDIMScheduler
from .cogvideox_dpm import CogVideoXDPMScheduler
from .consistency_models import CMStochasticIterativeScheduler
from .cosine import CosineDPMSolverMultistepScheduler
from .ddim import DDIMInverseScheduler, DDIMScheduler
from .ddpm import DDPMScheduler
from .ddpm_wuerstchen import DDPMWuerstchenScheduler
from .deis import DEISMultistepScheduler
from .dpm_solver_multistep import DPMSolverMultistepInverseScheduler, DPMSolverMultistepScheduler
from .dpm_solver_sde import DPMSolverSDEScheduler
from .dpm_solver_singlestep import DPMSolverSinglestepScheduler
from .edm import EDMDPMSolverMultistepScheduler, EDMEulerScheduler
from .euler import EulerAncestralDiscreteScheduler, EulerDiscreteScheduler
from .flow_map_euler import FlowMapEulerDiscreteScheduler
from .flow_match import FlowMatchEulerDiscreteScheduler, FlowMatchHeunDiscreteScheduler
from .flow_match_lcm import FlowMatchLCMScheduler
from .helios import HeliosScheduler
from .helios_dmd import HeliosDMDScheduler
from .heun import HeunDiscreteScheduler
from .ipndm import IPNDMScheduler
from .karras_ve import KarrasVeScheduler
from .kdpm2 import KDPM2AncestralDiscreteScheduler, KDPM2DiscreteScheduler
from .lcm import LCMScheduler
from .lms import LMSDiscreteScheduler
from .ltx_euler_ancestral_rf import LTXEulerAncestralRFScheduler
from .minimax_h3 import MiniMaxH3Scheduler
from .parallel import DDIMParallelScheduler, DDPMParallelScheduler
from .piflow import PiflowScheduler
from .plan import PlanScheduler
from .pndm import PNDMScheduler
from .repaint import RePaintScheduler
from .rfd4_proteina import RFD4ProteinaScheduler
from .sa_solver import SASolverScheduler
from .scm import SCMScheduler
from .score_sde import ScoreSdeVeScheduler, ScoreSdeVpScheduler
from .tcd import TCDScheduler
from .unclip import UnCLIPScheduler
from .unipc import UniPCMultistepScheduler

_CLASSES = (
    CMStochasticIterativeScheduler,
    CogVideoXDDIMScheduler,
    CogVideoXDPMScheduler,
    CosineDPMSolverMultistepScheduler,
    DDIMInverseScheduler,
    DDIMParallelScheduler,
    DDIMScheduler,
    DDPMParallelScheduler,
    DDPMScheduler,
    DDPMWuerstchenScheduler,
    DEISMultistepScheduler,
    DPMSolverMultistepInverseScheduler,
    DPMSolverMultistepScheduler,
    DPMSolverSDEScheduler,
    DPMSolverSinglestepScheduler,
    EDMDPMSolverMultistepScheduler,
    EDMEulerScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    FlowMapEulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    FlowMatchLCMScheduler,
    HeliosDMDScheduler,
    HeliosScheduler,
    HeunDiscreteScheduler,
    IPNDMScheduler,
    KDPM2AncestralDiscreteScheduler,
    KDPM2DiscreteScheduler,
    KarrasVeScheduler,
    LCMScheduler,
    LMSDiscreteScheduler,
    LTXEulerAncestralRFScheduler,
    MiniMaxH3Scheduler,
    PNDMScheduler,
    PiflowScheduler,
    PlanScheduler,
    RFD4ProteinaScheduler,
    RePaintScheduler,
    SASolverScheduler,
    SCMScheduler,
    ScoreSdeVeScheduler,
    ScoreSdeVpScheduler,
    TCDScheduler,
    UnCLIPScheduler,
    UniPCMultistepScheduler,
)
for _class in _CLASSES:
    _class.__module__ = "fastdiff"  # what a saved pipeline names; it stays when files move

__all__ = ["SchedulerMixin", *(c.__name__ for c in _CLASSES)]
