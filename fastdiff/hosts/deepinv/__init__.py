"""deepinv's calls on fastdiff's plans: a posterior sampler, `sampler(y, physics)`, and a solver of its diffusion SDEs.

deepinv itself is imported here alone, for its base classes, where it is installed.
"""

from .sampler import PosteriorSampler
from .solver import SDESolver

__all__ = ["PosteriorSampler", "SDESolver"]
