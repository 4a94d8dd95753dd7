"""In which order diffusers' models join the tokens of an image and of a text for one attention."""

from __future__ import annotations

from torch import nn

TEXT_FIRST = {
    "AuraFlowAttnProcessor2_0",
    "BriaAttnProcessor",
    "BriaFiboAttnProcessor",
    "CogVideoXAttnProcessor2_0",
    "CogView4AttnProcessor",
    "Flux2AttnProcessor",
    "FluxAttnProcessor",
    "FluxIPAdapterAttnProcessor",
    "GlmImageAttnProcessor",
    "LongCatImageAttnProcessor",
    "OvisImageAttnProcessor",
    "QwenDoubleStreamAttnProcessor2_0",
}
IMAGE_FIRST = {
    "FusedJointAttnProcessor2_0",
    "HunyuanImageAttnProcessor",
    "HunyuanVideo15AttnProcessor2_0",
    "HunyuanVideoAttnProcessor2_0",
    "JointAttnProcessor2_0",
    "MotifVideoAttnProcessor2_0",
    "SD3IPAdapterJointAttnProcessor2_0",
}
JOINED = {
    "BriaSingleTransformerBlock",
    "ChromaSingleTransformerBlock",
    "Flux2SingleTransformerBlock",
    "FluxSingleTransformerBlock",
    "LongCatImageSingleTransformerBlock",
    "OvisImageSingleTransformerBlock",
}
"""Blocks whose attention is given one sequence: the text's tokens, then the image's."""


def text_is_first(name: str, attention: nn.Module) -> bool:
    """Whether the text's tokens stand before the image's. Raises RuntimeError for an attention that is not known."""
    classes = {cls.__name__ for cls in type(getattr(attention, "processor", None)).__mro__}
    if classes & (TEXT_FIRST | IMAGE_FIRST):
        return bool(classes & TEXT_FIRST)
    known = type(getattr(attention, "processor", attention)).__name__
    raise RuntimeError(f"{name}: in which order {known} joins the tokens of image and text is not known")
