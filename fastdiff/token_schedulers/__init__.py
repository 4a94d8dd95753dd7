"""diffusers' schedulers of discrete diffusion on `ops.token_stats`: `from fastdiff import BlockRefinementScheduler`.

Each class is a subclass of diffusers' own of that name with its configuration, arguments and outputs. A step reads the
logits once and waits for no tensor's value. What is drawn from the logits is drawn by inversion from one number a row,
of a seed for each sample: those of `scheduler.seeds`, or as many as there are samples from the generator.
docs/diffusers.md has what users can rely on, docs/deviations.md where the results differ on purpose.
"""

from __future__ import annotations

try:
    import diffusers  # noqa: F401
except ImportError as error:
    raise ImportError(
        "fastdiff.token_schedulers: expected diffusers to be installed (pip install diffusers), which these classes"
        " extend"
    ) from error

from .amused import AmusedScheduler
from .block_refinement import BlockRefinementScheduler
from .discrete_ddim import DiscreteDDIMScheduler
from .entropy_bound import EntropyBoundScheduler
from .vq_diffusion import VQDiffusionScheduler

_CLASSES = (
    AmusedScheduler,
    BlockRefinementScheduler,
    DiscreteDDIMScheduler,
    EntropyBoundScheduler,
    VQDiffusionScheduler,
)
for _class in _CLASSES:
    _class.__module__ = "fastdiff"  # what a saved pipeline names; it stays when files move

__all__ = [c.__name__ for c in _CLASSES]
