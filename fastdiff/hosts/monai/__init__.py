"""Schedulers for MONAI's inferers: `from fastdiff.hosts.monai import X` in place of `from monai.networks.schedulers`.

    inferer = DiffusionInferer(PlanScheduler(scheduler))  # the scheduler that the network was trained with
    inferer.scheduler.set_timesteps(8)  # evaluations
    image = inferer.sample(noise, network)

In two and three dimensions, on latents, with conditions by concatenation or cross-attention, with MONAI's own
classifier-free guidance and with a ControlNet: the inferers ask for `timesteps`, `step` and `add_noise`, and no more.
"""

from .multistep import PlanScheduler, PNDMScheduler
from .single import DDIMScheduler, DDPMScheduler, RFlowScheduler

__all__ = ["DDIMScheduler", "DDPMScheduler", "PNDMScheduler", "PlanScheduler", "RFlowScheduler"]
