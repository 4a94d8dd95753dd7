"""diffusers' guiders on `fastdiff.guidance`: `from fastdiff import X` where a script has `from diffusers import X`.

Each class is a subclass of diffusers' own of that name: the constructor, the configuration, saving and the place in
modular pipelines are inherited; `forward` is a method of `fastdiff.guidance`. Where diffusers is wrong or fails,
fastdiff differs on purpose: docs/guiders.md has the list.

Windows. Step i of n is guided where start <= i / n < stop, with the fractions as written: 0.29 of 100 is step 29. A
window that ends at 1 ends with the run. Each constructor takes `guidance_interval=(low, high)` besides: no guidance
outside low < sigma / alpha <= high, whatever the number of steps. For that the guider has to know the noise level:

    guider = AdaptiveProjectedGuidance(5.0, eta=0.0, guidance_interval=(0.28, 5.42)).follow(pipe.scheduler)
    pipe.update_components(guider=guider)

A guider that follows a scheduler also applies what is defined on x0 or on a velocity there: adaptive projected guidance
and CFG-Zero*. Without one they act on the network's output, as in diffusers. The network's input is taken for x.

A run begins at any step that does not follow the step before, and has its own momentum. A perturbation is on the
network while that makes the prediction it is for, in the calling thread alone; it is undone also where a call failed.
Outputs carry no gradients. A guider serves one run at a time.
"""

from __future__ import annotations

try:
    import diffusers.guiders  # noqa: F401
except ImportError as error:
    raise ImportError(
        "fastdiff.guiders: expected a diffusers that has guiders, which these classes extend (pip install -U diffusers)"
    ) from error

from .frequency import FrequencyDecoupledGuidance
from .ltx2 import LTX2Guidance
from .perturbed import AutoGuidance, PerturbedAttentionGuidance, SkipLayerGuidance, SmoothedEnergyGuidance
from .projected import AdaptiveProjectedGuidance, AdaptiveProjectedMixGuidance
from .two_outputs import (
    ClassifierFreeGuidance,
    ClassifierFreeZeroStarGuidance,
    MagnitudeAwareGuidance,
    TangentialClassifierFreeGuidance,
)

_CLASSES = (
    AdaptiveProjectedGuidance,
    AdaptiveProjectedMixGuidance,
    AutoGuidance,
    ClassifierFreeGuidance,
    ClassifierFreeZeroStarGuidance,
    FrequencyDecoupledGuidance,
    LTX2Guidance,
    MagnitudeAwareGuidance,
    PerturbedAttentionGuidance,
    SkipLayerGuidance,
    SmoothedEnergyGuidance,
    TangentialClassifierFreeGuidance,
)
for _class in _CLASSES:
    _class.__module__ = "fastdiff"  # what a saved pipeline names; it stays when files move

__all__ = [c.__name__ for c in _CLASSES]
