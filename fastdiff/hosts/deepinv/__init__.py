"""A posterior sampler with deepinv's call, `sampler(y, physics)`, on fastdiff's plans.

deepinv itself is imported here alone, for its base class, where it is installed.
"""

from .sampler import PosteriorSampler

__all__ = ["PosteriorSampler"]
