"""`fastdiff.guidance` in ComfyUI: on a MODEL, as a GUIDER, and as nodes (`fastdiff.comfyui.nodes`).

Samplers are in `fastdiff.kdiffusion`, and faster models in `fastdiff.accelerate`.
"""

from .calls import condition, perturbed_attention, skipped_layers, weak_model, with_options
from .levels import Levels, interval_of
from .mahiro import Mahiro
from .model import guided, guider

__all__ = [
    "Levels",
    "Mahiro",
    "condition",
    "guided",
    "guider",
    "interval_of",
    "perturbed_attention",
    "skipped_layers",
    "weak_model",
    "with_options",
]
