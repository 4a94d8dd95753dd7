"""stable-audio-tools' samplers, `sample_k` and `sample_rf`, with its signatures, on fastdiff's plans.

    from fastdiff.hosts import stable_audio

    handle = stable_audio.patch()  # then generate_diffusion_cond(model, steps=8, cfg_scale=6, ...) as before
    handle.undo()

Without a sampler_type both draw with fastdiff's default for so many evaluations. The package's own names are its
samplers, with equal results. The package itself is needed for `patch` alone, and for "rk4", "pingpong" and
"v-ddim-cfgpp", which stay its own.
"""

from .patch import patch
from .rectified_flow import sample_rf
from .variance_exploding import sample_k

__all__ = ["patch", "sample_k", "sample_rf"]
