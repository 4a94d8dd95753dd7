"""What a block that is left out returns: its inputs, in the place of the outputs that stand for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from ..attention_tokens import Frame

IMAGE, TEXT = "hidden_states", "encoder_hidden_states"

# What diffusers' blocks of two streams return, in order.
RETURNS = {
    **dict.fromkeys(
        (
            "AuraFlowJointTransformerBlock",
            "BriaFiboTransformerBlock",
            "BriaSingleTransformerBlock",
            "BriaTransformerBlock",
            "ChromaTransformerBlock",
            "Flux2TransformerBlock",
            "FluxSingleTransformerBlock",
            "FluxTransformerBlock",
            "JointTransformerBlock",
            "LongCatImageSingleTransformerBlock",
            "LongCatImageTransformerBlock",
            "OvisImageSingleTransformerBlock",
            "OvisImageTransformerBlock",
            "QwenImageTransformerBlock",
        ),
        (TEXT, IMAGE),
    ),
    **dict.fromkeys(
        (
            "CogVideoXBlock",
            "CogView3PlusTransformerBlock",
            "CogView4TransformerBlock",
            "ConsisIDBlock",
            "EasyAnimateTransformerBlock",
            "GlmImageTransformerBlock",
            "HunyuanImageSingleTransformerBlock",
            "HunyuanImageTransformerBlock",
            "HunyuanVideo15TransformerBlock",
            "HunyuanVideoSingleTransformerBlock",
            "HunyuanVideoTokenReplaceSingleTransformerBlock",
            "HunyuanVideoTokenReplaceTransformerBlock",
            "HunyuanVideoTransformerBlock",
            "MochiTransformerBlock",
            "MotifVideoSingleTransformerBlock",
            "MotifVideoTransformerBlock",
        ),
        (IMAGE, TEXT),
    ),
}


class Skip:
    """Wrapper of blocks that are left out.

    A block of a class that is not listed above returns one tensor for its first. That is seen in its first call, whose
    result is not used; later ones cost nothing.
    """

    def __init__(self) -> None:
        self._in_tuple: dict[type, bool] = {}

    def __call__(self, name: str, module: nn.Module, forward: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        frame, cls = Frame(module, args, kwargs), type(module)
        if cls.__name__ in RETURNS:
            return tuple(frame.arguments[stream] for stream in RETURNS[cls.__name__])
        if cls not in self._in_tuple:
            self._in_tuple[cls] = _is_in_tuple(name, frame, forward(*args, **kwargs))
        return (frame.first,) if self._in_tuple[cls] else frame.first


def _is_in_tuple(name: str, frame: Frame, out: object) -> bool:
    inner = out[0] if isinstance(out, tuple) and len(out) == 1 else out
    given = frame.first
    if isinstance(inner, Tensor) and given is not None and inner.shape == given.shape:
        return inner is not out
    parts = f"a tuple of {len(out)}" if isinstance(out, tuple) else type(out).__name__
    shape = f" of shape {tuple(inner.shape)}" if isinstance(inner, Tensor) else ""
    raise RuntimeError(
        f"{name}: cannot be skipped, for {type(frame.module).__name__} returns {parts}{shape}, and not one tensor like"
        " its first"
    )
