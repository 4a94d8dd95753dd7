"""diffusers' pipelines as what `fastdiff.sample` and `fastdiff.fit` take: a model, a schedule, noise and conditions.

Every call of the model runs the pipeline's own code for one evaluation, from the arguments to the scheduler's step, so
it is the pipeline that guides, packs, scales and chooses among its networks. diffusers is not imported here.
"""

from .denoiser import Denoiser, denoiser
from .fit import fit_pipeline

__all__ = ["Denoiser", "denoiser", "fit_pipeline"]
