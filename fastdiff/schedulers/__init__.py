"""diffusers' schedulers on fastdiff's plans: `from fastdiff import X` where a script has `from diffusers import X`.

Each class is a subclass of diffusers' own of that name, whose `step` is one row of a table in one fused call: the
configuration, timesteps and sigmas, add_noise, saving and isinstance checks are inherited, and the same generator gives
the same image. `step` reads no value of a tensor; inside torch.compile it is one opaque op without a graph break (there
with `variance_noise` or torch's own generator, and not inside CUDA graphs).

Whose step it is. A run is what set_timesteps begins, or a new pass over the same timesteps. Threads that share a
scheduler never see each other's runs. In one thread a step at one of the new `timesteps` begins the run that
set_timesteps made; any other belongs to the run whose latest result it is given; else to the run whose `timesteps` it
is given an element of. So interleaved runs are kept apart if each has called set_timesteps or hands on the very tensor
that step returned; the latest eight runs of a thread are kept.

set_timesteps takes `timesteps`, `sigmas` and `mu` in every class (`fastdiff.schedulers.spaces`).

What a host changes after set_timesteps counts from the next step on, as in diffusers: attributes of `scheduler.config`,
`sigmas` and `timesteps` edited in place or replaced, `alphas_cumprod`. (The exception: tensors made in inference mode
and edited in place in the middle of a run.) A step takes `generator` in every class; where it draws nothing it is not
read.

Where fastdiff differs from diffusers 0.42.1, on purpose:

| class | diffusers | here |
|---|---|---|
| sde-dpmsolver++ of order 3: DPMSolverMultistep, Singlestep | -1/2 in a weight for +1/2 | the integral's sign |
| sde-dpmsolver++ of order 3: the Inverse, EDMDPMSolverMultistep | AssertionError, UnboundLocalError | as above |
| sde-dpmsolver of order 3: DPMSolverMultistep | UnboundLocalError | differences as in the ODE's |
| SDEs of DPMSolverMultistepInverse | NaN | the noising process, exact |
| use_flow_sigmas of DPMSolverMultistepInverse | falls to clean data | rises to noise |
| order 3, midpoint: DPMSolverSinglestep | order 2's middle stage | arXiv 2206.00927's, algorithm 5 |
| dpmsolver with thresholding: DPMSolverSinglestep | RuntimeError | thresholded |
| learned variances with v_prediction or sample: the DPM-Solvers | RuntimeError | the prediction's half |
| two equal times or levels: the DPM-Solvers, DEIS, UniPC, LMS | NaN | a step that changes nothing |
| karras, exponential, lu sigmas down to sigma_min | NaN from a last step of length 0 | an empty step |
| the first time comes twice, without set_begin_index | the first step is left out | begins at the first |
| shift_terminal with one step: FlowMatchEuler, UniPC | NaN | t = 1 |
| UniPC onto sigma = 0 with bh1, or without lower_order_final | NaN, LinAlgError | the limit, first order |
| UniPC, solver_order changed between two steps | the old one corrects the step before | the new one |
| PNDM with v_prediction | mixes v of several samples | turns each v into its noise |
| PNDM with Runge-Kutta steps, from the middle | as if at the first of its times | from the time it is at |
| LMS from the middle | weights of outputs that it does not have | lower order |
| KDPM2Ancestral | middles from differences of squares, NaN on cosine betas | exact |
| DDPM with fixed_large_log | NaN | the root of beta |
| DDIM, DDPM, LCM, TCD with epsilon at zero terminal signal | inf, NaN | ValueError, if the step is taken |
| the same with thresholding | NaN | as with a limit just above zero signal |
| DDIMInverse with sample, from clean data | inf | no noise |
| IPNDM, begun anew by `_step_index = None` | with the outputs of the pass before | with none |
| mu= of DPMSolverMultistep, Singlestep, DEIS | AssertionError, or changes the config | shifts this run alone |
| sigmas= of EDMEuler | taken as places on its own grid | noise levels |
| eta outside [0, 1]: TCD | AssertionError | ValueError |
| from_config of one that clips x0, in a class that does not | silent | a warning |
| DPMSolverSDE without noise_sampler_seed | torch's global generator seeds | step's generator, if given |
| an output of another shape | an obscure RuntimeError | ValueError |
| steps after the last | IndexError | a new pass, if they begin one, else IndexError |

diffusers' own tests of its schedulers pass with these classes in place of its own, but for four: full loops of LMS from
the middle and of IPNDM's second pass (above), and of DDPM and KDPM2Ancestral, which expect float32's rounding.

What may surprise and is as in diffusers: a step of DDIM and its inverse ends num_train_timesteps // n before its time,
which is not the next time of linspace and trailing grids where n does not divide it (`timesteps=` ends at the next);
TCD reads neither clip_sample nor thresholding; sample_max_value below 1 is the limit itself.

Half precision: the history is kept in float32. With s_churn > 0, per-token times, and UniPC's solver_p the step is
diffusers' own. DDIMPipeline makes its scheduler diffusers' DDIM: assign this one after construction.
"""

from __future__ import annotations

try:
    import diffusers  # noqa: F401
except ImportError as error:
    raise ImportError(
        "fastdiff.schedulers: expected diffusers to be installed (pip install diffusers), which these classes extend"
    ) from error

from diffusers import SchedulerMixin  # diffusers looks for it in the module that a saved pipeline names

from .ddim import DDIMInverseScheduler, DDIMScheduler
from .ddpm import DDPMScheduler
from .deis import DEISMultistepScheduler
from .dpm_solver_multistep import DPMSolverMultistepInverseScheduler, DPMSolverMultistepScheduler
from .dpm_solver_sde import DPMSolverSDEScheduler
from .dpm_solver_singlestep import DPMSolverSinglestepScheduler
from .edm import EDMDPMSolverMultistepScheduler, EDMEulerScheduler
from .euler import EulerAncestralDiscreteScheduler, EulerDiscreteScheduler
from .flow_match import FlowMatchEulerDiscreteScheduler, FlowMatchHeunDiscreteScheduler
from .heun import HeunDiscreteScheduler
from .ipndm import IPNDMScheduler
from .kdpm2 import KDPM2AncestralDiscreteScheduler, KDPM2DiscreteScheduler
from .lcm import LCMScheduler
from .lms import LMSDiscreteScheduler
from .plan import PlanScheduler
from .pndm import PNDMScheduler
from .tcd import TCDScheduler
from .unipc import UniPCMultistepScheduler

_CLASSES = (
    DDIMInverseScheduler,
    DDIMScheduler,
    DDPMScheduler,
    DEISMultistepScheduler,
    DPMSolverMultistepInverseScheduler,
    DPMSolverMultistepScheduler,
    DPMSolverSDEScheduler,
    DPMSolverSinglestepScheduler,
    EDMDPMSolverMultistepScheduler,
    EDMEulerScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    HeunDiscreteScheduler,
    IPNDMScheduler,
    KDPM2AncestralDiscreteScheduler,
    KDPM2DiscreteScheduler,
    LCMScheduler,
    LMSDiscreteScheduler,
    PNDMScheduler,
    PlanScheduler,
    TCDScheduler,
    UniPCMultistepScheduler,
)
for _class in _CLASSES:
    _class.__module__ = "fastdiff"  # what a saved pipeline names; it stays when files move

__all__ = ["SchedulerMixin", *(c.__name__ for c in _CLASSES)]
