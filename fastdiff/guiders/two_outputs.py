"""Guiders of the conditional and the unconditional output."""

from __future__ import annotations

import math

import diffusers.guiders as host
import torch
from torch import Tensor

from ..guidance import CFG, Magnitude, Tangential, ZeroStar
from ..sampling.rule import Guidance
from .constructor import with_interval
from .guider import Guider, Moment


class TwoOutputs(Guider):
    """Guiders with a `guidance_scale` and a `guidance_rescale`.

    `use_original_formulation` counts the scale from the conditional output, where it is smaller by one.
    """

    guidance_scale: float
    guidance_rescale: float
    use_original_formulation: bool

    @property
    def _scale(self) -> float:
        """The scale counted from the unconditional output."""
        return self.guidance_scale + bool(self.use_original_formulation)

    def _acts(self, moment: Moment | None) -> bool:
        return self._guided(moment, self._start, self._stop) and not math.isclose(self._scale, 1.0)

    def _active(self, moment: Moment | None) -> list[str]:
        return ["pred_cond", "pred_uncond"] if self._acts(moment) else ["pred_cond"]


class ClassifierFreeGuidance(TwoOutputs, host.ClassifierFreeGuidance):
    """y = u + g (c - u) (Ho & Salimans 2022, arXiv 2207.12598)."""

    __init__ = with_interval(host.ClassifierFreeGuidance.__init__)

    def _method(self, names: list[str]) -> Guidance:
        return CFG(self._scale, rescale=self.guidance_rescale)


class ClassifierFreeZeroStarGuidance(TwoOutputs, host.ClassifierFreeZeroStarGuidance):
    """y = s u + g (c - s u), s = <c, u> / |u|^2; 0 in the first `zero_init_steps` steps (arXiv 2503.18886).

    Defined on the velocity of flow models, as which outputs are taken. A guider that follows a scheduler converts those
    of other models. A step whose velocity is 0 evaluates the network once, since the pipelines need an output.
    """

    __init__ = with_interval(host.ClassifierFreeZeroStarGuidance.__init__)
    _reads_sample = True

    def _active(self, moment: Moment | None) -> list[str]:
        return ["pred_cond"] if self._zero(moment) else super()._active(moment)

    def _zero(self, moment: Moment | None) -> bool:
        return self._enabled and moment is not None and moment.step < self.zero_init_steps

    def _guide(self, names: list[str], predictions: dict[str, Tensor]) -> Tensor:
        if not self._zero(self._moment):
            return super()._guide(names, predictions)
        if not self._acts_on_x0:
            return torch.zeros_like(predictions["pred_cond"])
        return self._combined(self._method(names), predictions)

    def _method(self, names: list[str]) -> Guidance:
        return ZeroStar(self._scale, zero_steps=self.zero_init_steps, rescale=self.guidance_rescale)


class TangentialClassifierFreeGuidance(TwoOutputs, host.TangentialClassifierFreeGuidance):
    """CFG with u projected on the first right singular vector of [c; u] (arXiv 2503.18137)."""

    __init__ = with_interval(host.TangentialClassifierFreeGuidance.__init__)

    def _method(self, names: list[str]) -> Guidance:
        return Tangential(self._scale, space="output", rescale=self.guidance_rescale)


class MagnitudeAwareGuidance(TwoOutputs, host.MagnitudeAwareGuidance):
    """MAMBO-G: y = u + (1 + (g - 1) exp(-alpha |c - u| / |u|)) (c - u) (arXiv 2508.03442)."""

    __init__ = with_interval(host.MagnitudeAwareGuidance.__init__)

    def _method(self, names: list[str]) -> Guidance:
        return Magnitude(self._scale, self.alpha, rescale=self.guidance_rescale)
