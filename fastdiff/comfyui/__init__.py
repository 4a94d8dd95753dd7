"""fastdiff in ComfyUI: guidance on a MODEL or as a GUIDER, plans as samplers, and nodes (`fastdiff.comfyui.nodes`).

Samplers are in `fastdiff.kdiffusion`, and faster models in `fastdiff.accelerate`. `fastdiff comfyui install PATH` puts
the nodes into a checkout of ComfyUI.
"""

from .calls import condition, perturbed_attention, skipped_layers, weak_model, with_options
from .fit import FitRun
from .host_plan import sampler_of, sigmas_of
from .levels import Levels, interval_of
from .mahiro import Mahiro
from .model import guided, guider
from .schedule import schedule_of

__all__ = [
    "FitRun",
    "Levels",
    "Mahiro",
    "condition",
    "guided",
    "guider",
    "interval_of",
    "perturbed_attention",
    "sampler_of",
    "schedule_of",
    "sigmas_of",
    "skipped_layers",
    "weak_model",
    "with_options",
]
