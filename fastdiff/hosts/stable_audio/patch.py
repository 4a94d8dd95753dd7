"""`patch`: fastdiff's functions in stable-audio-tools' modules."""

from __future__ import annotations

import importlib

from ...patch.handle import Handle
from .rectified_flow import sample_rf
from .variance_exploding import sample_k

MODULES = ("stable_audio_tools.inference.sampling", "stable_audio_tools.inference.generation")


def patch() -> Handle:
    """Let stable-audio-tools' `generate_diffusion_cond` and its siblings draw with fastdiff; a handle with `undo()`.

    Raises ImportError without stable-audio-tools, ValueError where it is patched already.
    """
    modules = [importlib.import_module(name) for name in MODULES]
    handle = Handle(modules[0], "hosts.stable_audio.patch")
    for module in modules:
        for function in (sample_k, sample_rf):
            if getattr(module, function.__name__) is function:
                raise ValueError(f"{module.__name__}: it draws with fastdiff already; undo that first")
    for module in modules:
        for function in (sample_k, sample_rf):
            handle.set_attribute(module, function.__name__, function, function.__name__)
    return handle
