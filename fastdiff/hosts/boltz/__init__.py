"""Boltz's structure module on fastdiff's plans: a twin of `AtomDiffusion.sample`, of Boltz-1 and Boltz-2.

    from functools import partial
    from fastdiff.hosts import boltz

    model.structure_module.sample = partial(boltz.sample, model.structure_module)

The package itself is needed for steering potentials alone.
"""

from .denoiser import Denoiser
from .plans import plan, schedule, unit
from .sampler import sample

__all__ = ["Denoiser", "plan", "sample", "schedule", "unit"]
