"""Nodes of guidance.

Those with a MODEL output guide every sampler that runs it, with the sampler's cfg for the guidance scale. Those with a
GUIDER output are for SamplerCustomAdvanced.
"""

from __future__ import annotations

from functools import partial
from typing import Any, ClassVar

from ..guidance import (
    APG,
    CFG,
    Adaptive,
    Autoguidance,
    CFGNorm,
    CFGpp,
    Dual,
    FrequencyDecoupled,
    FreSca,
    Guidance,
    History,
    Magnitude,
    PerpNeg,
    Tangential,
    Term,
    Terms,
    ZeroStar,
)
from .calls import condition, perturbed_attention, skipped_layers, weak_model
from .levels import interval_of, own_space
from .mahiro import Mahiro
from .model import guided, guider
from .widgets import SCALE, Widget, count, layers, number, socket, text, window

Interval = tuple[float, float] | None
MODEL = socket("MODEL", "The model to guide. Any earlier guidance of these nodes is replaced.")
PROMPTS = {
    "positive": socket("CONDITIONING", "The prompt."),
    "negative": socket("CONDITIONING", "What to lead away from."),
    "empty": socket("CONDITIONING", "An empty prompt."),
    "middle": socket("CONDITIONING", "The second condition, such as the image alone."),
}


def prompts(*names: str) -> dict[str, Widget]:
    """Inputs for conditions."""
    return {name: PROMPTS[name] for name in names}


class _OnModel:
    """MODEL to MODEL. WIDGETS: the method's own inputs. WINDOW: where it acts at first."""

    CATEGORY, FUNCTION = "fastdiff/guidance", "patch"
    RETURN_TYPES, RETURN_NAMES = ("MODEL",), ("model",)
    OUTPUT_TOOLTIPS = ("A guided clone, for any sampler.",)
    WIDGETS: ClassVar[dict[str, Widget]] = {}
    WINDOW: ClassVar[dict[str, Widget]] = window()

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, dict[str, Widget]]:
        return {"required": {"model": MODEL, **cls.WIDGETS}, "optional": cls.WINDOW}

    def patch(self, model: Any, start_percent: float = 0.0, end_percent: float = 1.0, **values: Any) -> tuple[Any]:
        sampling = model.get_model_object("model_sampling")
        interval = interval_of(sampling, start_percent, end_percent)
        return (guided(model, partial(self.guidance, interval=interval, space=own_space(sampling), **values)),)

    @staticmethod
    def guidance(scale: float, *, interval: Interval, space: str) -> Guidance:
        """The method at the sampler's cfg scale. space: of the network's own output."""
        raise NotImplementedError


class CFGNode(_OnModel):
    DESCRIPTION = "Plain guidance in an interval of noise levels, and rescaled against overexposure (arXiv 2305.08891)."
    WIDGETS: ClassVar = {
        "rescale": number(
            0.0, 0.0, 1.0, "How much of the positive output's contrast is brought back; 0.7 in the paper."
        )
    }

    @staticmethod
    def guidance(scale: float, *, interval: Interval, space: str, rescale: float = 0.0) -> Guidance:
        # The paper's is v, also for models that predict noise: in eps the contrast of the image hardly counts.
        return CFG(scale, rescale, interval=interval, space="v" if space == "noise" else space)


class APGNode(_OnModel):
    DESCRIPTION = "Adaptive projected guidance (arXiv 2410.02416): high scales without oversaturation."
    WIDGETS: ClassVar = {
        "eta": number(
            0.0, -10.0, 10.0, "Weight of the part along the positive output, which oversaturates. 1 keeps it."
        ),
        "norm": number(15.0, 0.0, 1000.0, "The largest norm of the difference that is added; 0 for no bound.", 0.1),
        "momentum": number(-0.5, -5.0, 1.0, "Of a running sum of differences; below 0 new directions count. 0: none."),
    }

    @staticmethod
    def guidance(
        scale: float, *, interval: Interval, space: str, eta: float = 0.0, norm: float = 15.0, momentum: float = -0.5
    ) -> Guidance:
        return APG(scale, norm or None, eta, momentum or None, interval=interval)


class ZeroStarNode(_OnModel):
    DESCRIPTION = (
        "CFG-Zero* (arXiv 2503.18886) for rectified flows: the negative output is scaled to fit the positive one."
    )
    WIDGETS: ClassVar = {
        "zero_steps": count(1, 0, 100, "In this many first steps the velocity is 0 and the model is not called.")
    }

    @staticmethod
    def guidance(scale: float, *, interval: Interval, space: str, zero_steps: int = 1) -> Guidance:
        return ZeroStar(scale, zero_steps, interval=interval)


class TangentialNode(_OnModel):
    DESCRIPTION = (
        "Tangential damping (arXiv 2503.18137): the negative output keeps what it shares with the positive one."
    )

    @staticmethod
    def guidance(scale: float, *, interval: Interval, space: str) -> Guidance:
        return Tangential(scale, interval=interval, space="flow" if space == "flow" else "noise")


class MagnitudeNode(_OnModel):
    DESCRIPTION = (
        "Magnitude-aware guidance (arXiv 2508.03442): less where the two outputs are far apart. High cfg, as 10."
    )
    WIDGETS: ClassVar = {"damping": number(8.0, 0.0, 100.0, "How fast guidance falls with the distance.", 0.1)}

    @staticmethod
    def guidance(scale: float, *, interval: Interval, space: str, damping: float = 8.0) -> Guidance:
        return Magnitude(scale, damping, interval=interval, space=space)


class CFGppNode(_OnModel):
    DESCRIPTION = (
        "CFG++ (arXiv 2406.08070) for the samplers euler and ddim. The sampler's cfg is lambda: 0 to 1, as 0.6."
    )

    @staticmethod
    def guidance(scale: float, *, interval: Interval, space: str) -> Guidance:
        return CFGpp(scale, interval=interval)


class FreScaNode(_OnModel):
    DESCRIPTION = "FreSca (arXiv 2504.02154): guidance with other scales for coarse and fine structure."
    WIDGETS: ClassVar = {
        "low": number(1.0, 0.0, 10.0, "Multiplies the guidance of coarse structure."),
        "high": number(1.25, 0.0, 10.0, "Multiplies the guidance of fine structure."),
        "cutoff": count(
            20, 1, 10000, "Fine is more periods than this. All is coarse in latents of up to twice as many."
        ),
    }

    @staticmethod
    def guidance(
        scale: float, *, interval: Interval, space: str, low: float = 1.0, high: float = 1.25, cutoff: int = 20
    ) -> Guidance:
        return FreSca(scale, low, high, cutoff, interval=interval)


class FrequencyDecoupledNode(_OnModel):
    DESCRIPTION = "Frequency-decoupled guidance: the sampler's cfg for fine structure, another for coarse structure."
    WIDGETS: ClassVar = {
        "coarse_cfg": number(5.0, 0.0, 100.0, "Low scales in coarse structure keep colours and variety.", 0.1)
    }

    @staticmethod
    def guidance(scale: float, *, interval: Interval, space: str, coarse_cfg: float = 5.0) -> Guidance:
        return FrequencyDecoupled(scales=(scale, coarse_cfg), interval=interval)


class CFGNormNode(_OnModel):
    DESCRIPTION = "Guidance that exceeds the positive output's norm at no position, as for Qwen-Image."
    WIDGETS: ClassVar = {"strength": number(1.0, 0.0, 100.0, "Multiplies the result.")}

    @staticmethod
    def guidance(scale: float, *, interval: Interval, space: str, strength: float = 1.0) -> Guidance:
        return CFGNorm(scale, strength, interval=interval)


class AdaptiveNode(_OnModel):
    DESCRIPTION = "Adaptive guidance: the negative prompt is left out once it hardly matters, for the rest of the run."
    WIDGETS: ClassVar = {
        "cosine": number(0.999, -1.0, 1.0, "Of the angle between the two outputs beyond which it is left out.", 0.0001)
    }

    @staticmethod
    def guidance(scale: float, *, interval: Interval, space: str, cosine: float = 0.999) -> Guidance:
        return Adaptive(scale, cosine, interval=interval, space="flow" if space == "flow" else "noise")


class HistoryNode(_OnModel):
    DESCRIPTION = "History guidance (arXiv 2509.22300): a step away from earlier predictions, without a further call."
    WIDGETS: ClassVar = {
        "weight": number(1.0, 0.0, 10.0, "Of the difference from the mean of earlier predictions."),
        "decay": number(0.5, 0.01, 1.0, "Weight of the newest prediction in that mean."),
        "eta": number(1.0, 0.0, 1.0, "Weight of the part along the prediction; 1 keeps it."),
    }

    @staticmethod
    def guidance(
        scale: float, *, interval: Interval, space: str, weight: float = 1.0, decay: float = 0.5, eta: float = 1.0
    ) -> Guidance:
        return History(weight, scale, decay, eta, interval=interval)


class MahiroNode(_OnModel):
    DESCRIPTION = "Mahiro: more of the positive output where plain guidance leads away from it, image by image."

    @staticmethod
    def guidance(scale: float, *, interval: Interval, space: str) -> Guidance:
        return Mahiro(scale, interval=interval)


class PerturbedAttentionNode(_OnModel):
    DESCRIPTION = "Perturbed-attention guidance (arXiv 2403.17377) for U-Nets, beside the sampler's cfg."
    WIDGETS: ClassVar = {"pag_scale": number(3.0, 0.0, 100.0, "Weight of the difference from the perturbed output.")}

    @staticmethod
    def guidance(scale: float, *, interval: Interval, space: str, pag_scale: float = 3.0) -> Guidance:
        return Terms(scale, (Term(pag_scale, perturbed_attention(), interval),))


class SkipLayersNode(_OnModel):
    DESCRIPTION = "Skip-layer guidance for diffusion transformers, beside the sampler's cfg."
    WINDOW: ClassVar = window(0.01, 0.15)
    WIDGETS: ClassVar = {
        "double_layers": text("7, 8, 9", "Double blocks to leave out."),
        "single_layers": text("", "Single blocks to leave out."),
        "slg_scale": number(3.0, 0.0, 100.0, "Weight of the difference from the output without those layers."),
    }

    @staticmethod
    def guidance(
        scale: float, *, interval: Interval, space: str, double_layers: str = "", single_layers: str = "",
        slg_scale: float = 3.0,
    ) -> Guidance:  # fmt: skip
        return Terms(scale, (Term(slg_scale, skipped_layers(layers(double_layers), layers(single_layers)), interval),))


class _Guider:
    CATEGORY, FUNCTION = "fastdiff/guidance", "get_guider"
    RETURN_TYPES, RETURN_NAMES = ("GUIDER",), ("guider",)
    OUTPUT_TOOLTIPS = ("For SamplerCustomAdvanced.",)


class PerpNegGuider(_Guider):
    DESCRIPTION = "Perpendicular negative guidance (arXiv 2304.04968): what both prompts share is not removed."

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, dict[str, Widget]]:
        strength = number(1.0, 0.0, 100.0, "Weight of the negative prompt.")
        given = prompts("positive", "negative", "empty")
        return {"required": {"model": MODEL, **given, "cfg": SCALE, "strength": strength}}

    def get_guider(
        self, model: Any, positive: Any, negative: Any, empty: Any, cfg: float, strength: float
    ) -> tuple[Any]:
        guidance = PerpNeg(cfg, strength, condition("empty"))
        return (guider(model, guidance, positive, negative, cfg=cfg, empty=empty),)


class DualGuider(_Guider):
    DESCRIPTION = (
        "Two conditions, such as a text with an image and the image alone (InstructPix2Pix, arXiv 2211.09800)."
    )

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, dict[str, Widget]]:
        middle = number(1.5, 0.0, 100.0, "Scale of the middle condition over the negative one.", 0.1)
        nested = ("BOOLEAN", {"default": False, "tooltip": "Guidance by the first applied to guidance by the second."})
        given = prompts("positive", "middle", "negative")
        return {"required": {"model": MODEL, **given, "cfg": SCALE, "middle_cfg": middle, "nested": nested}}

    def get_guider(
        self, model: Any, positive: Any, middle: Any, negative: Any, cfg: float, middle_cfg: float, nested: bool
    ) -> tuple[Any]:
        guidance = Dual(cfg, middle_cfg, condition("middle"), nested)
        return (guider(model, guidance, positive, negative, cfg=cfg, middle=middle),)


class AutoguidanceGuider(_Guider):
    DESCRIPTION = "Away from a weaker model with the same prompt (arXiv 2406.02507), without a negative one."

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, dict[str, Widget]]:
        scale = number(2.0, 0.0, 100.0, "The guidance scale; about 2 in the paper.", 0.1)
        weak = socket("MODEL", "The weaker model: a smaller or less trained checkpoint of the same kind.")
        return {"required": {"model": MODEL, "weak": weak, **prompts("positive"), "cfg": scale}}

    def get_guider(self, model: Any, weak: Any, positive: Any, cfg: float) -> tuple[Any]:
        return (guider(model, Autoguidance(cfg, weak_model(weak)), positive, cfg=cfg),)


NODES: dict[str, tuple[Any, str]] = {
    "FastdiffCFG": (CFGNode, "CFG, interval and rescale"),
    "FastdiffAPG": (APGNode, "Adaptive projected guidance (APG)"),
    "FastdiffCFGZeroStar": (ZeroStarNode, "CFG-Zero*"),
    "FastdiffTangentialCFG": (TangentialNode, "Tangential damping CFG"),
    "FastdiffMagnitude": (MagnitudeNode, "Magnitude-aware guidance"),
    "FastdiffFreSca": (FreScaNode, "FreSca"),
    "FastdiffFrequencyDecoupled": (FrequencyDecoupledNode, "Frequency-decoupled guidance"),
    "FastdiffCFGNorm": (CFGNormNode, "CFG with the positive output's norm"),
    "FastdiffAdaptive": (AdaptiveNode, "Adaptive guidance"),
    "FastdiffHistory": (HistoryNode, "History guidance (HiGS)"),
    "FastdiffMahiro": (MahiroNode, "Mahiro guidance"),
    "FastdiffCFGpp": (CFGppNode, "CFG++ for Euler"),
    "FastdiffPerturbedAttention": (PerturbedAttentionNode, "Perturbed-attention guidance (PAG)"),
    "FastdiffSkipLayers": (SkipLayersNode, "Skip-layer guidance (SLG)"),
    "FastdiffPerpNegGuider": (PerpNegGuider, "Perpendicular negative guider"),
    "FastdiffDualGuider": (DualGuider, "Dual condition guider"),
    "FastdiffAutoguidanceGuider": (AutoguidanceGuider, "Autoguidance guider"),
}
