"""PhysicsNeMo's samplers on fastdiff's plans: import them from here instead of from `physicsnemo.diffusion.samplers`.

    from fastdiff.hosts.physicsnemo import deterministic_sampler, stochastic_sampler

    x = deterministic_sampler(net, latents, img_lr, mean_hr=mean, num_steps=8)  # eight evaluations of the network
    corrdiff.sampler = functools.partial(deterministic_sampler, num_steps=8)  # earth2studio's CorrDiff

`PlanSolver` is for its newer `sample(denoiser, xN, noise_scheduler, num_steps, solver=...)`. PhysicsNeMo itself is
imported only where a call asks for what is its own.
"""

from .samplers import deterministic_sampler, stochastic_sampler
from .solver import PlanSolver

__all__ = ["PlanSolver", "deterministic_sampler", "stochastic_sampler"]
