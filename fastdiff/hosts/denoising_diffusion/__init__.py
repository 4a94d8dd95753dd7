"""denoising-diffusion-pytorch's samplers on fastdiff's plans: GaussianDiffusion, its 1-D form, ElucidatedDiffusion.

    from fastdiff.hosts import denoising_diffusion

    images = denoising_diffusion.sample(diffusion, batch_size=16, evaluations=10)  # was: diffusion.sample(16)

The package itself is not imported.
"""

from .sample import interpolate, sample

__all__ = ["interpolate", "sample"]
