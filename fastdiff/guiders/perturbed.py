"""Guiders that steer away from what a perturbed network predicts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import diffusers.guiders as host
from diffusers.guiders.guider_utils import GuiderOutput
from diffusers.hooks import LayerSkipConfig
from diffusers.hooks.smoothed_energy_guidance_utils import SmoothedEnergyGuidanceConfig
from torch import Tensor, nn

from ..guidance import CFG, Term, Terms
from ..sampling.rule import Guidance
from .constructor import with_interval
from .guider import Moment
from .layers import Perturbation, configs, of_blurred, of_skipped
from .two_outputs import TwoOutputs


class PerturbingGuider(TwoOutputs):
    """Guiders that perturb the network while it makes one of the predictions, and undo that afterwards."""

    _perturbed = ""  # the name of that prediction
    _perturbations: Sequence[Perturbation] = ()
    _denoiser: nn.Module | None = None

    def _begin_run(self) -> None:
        super()._begin_run()
        self._perturbations, self._denoiser = (), None

    def _changes_for(self, denoiser: nn.Module, name: str) -> list[AbstractContextManager[Any]]:
        if name != self._perturbed:
            return super()._changes_for(denoiser, name)
        if self._denoiser is not denoiser:
            self._perturbations, self._denoiser = self._perturb(denoiser), denoiser
        return [perturbation(float(self._step or 0)) for perturbation in self._perturbations]

    def _perturb(self, denoiser: nn.Module) -> list[Perturbation]:
        """What is done to a network."""
        raise NotImplementedError


class AutoGuidance(PerturbingGuider, host.AutoGuidance):
    """y = w + g (c - w), w from the network with skipped layers or dropout in them (arXiv 2406.02507).

    w is made from the unconditional inputs, as in diffusers; pass the prompt as the negative one for the paper's.
    """

    _perturbed = "pred_uncond"
    __init__ = with_interval(host.AutoGuidance.__init__)

    def _method(self, names: list[str]) -> Guidance:
        return CFG(self._scale, rescale=self.guidance_rescale)

    def _perturb(self, denoiser: nn.Module) -> list[Perturbation]:
        return [of_skipped(denoiser, config) for config in configs(LayerSkipConfig, self.auto_guidance_config)]


class ThreeOutputs(PerturbingGuider):
    """y = u + g (c - u) + s (c - c_pert), c_pert from the conditional inputs and the perturbed network.

    The two terms have windows of their own. Without guidance (g = 1) it is y = c + s (c - c_pert).
    """

    _term: tuple[str, str, str]  # the names of s, and of its window's edges

    def _active(self, moment: Moment | None) -> list[str]:
        scale, start, stop = (getattr(self, name) for name in self._term)
        perturbs = self._guided(moment, start, stop) and not math.isclose(scale, 0.0, abs_tol=1e-9)
        return super()._active(moment) + [self._perturbed] * perturbs

    def _method(self, names: list[str]) -> Guidance:
        scale = self._scale if "pred_uncond" in names else 1.0
        weight = getattr(self, self._term[0]) if self._perturbed in names else 0.0
        return Terms(scale, terms=[Term(weight, {"prediction": self._perturbed})], rescale=self.guidance_rescale)


class SkippingGuider(ThreeOutputs):
    """Guiders whose perturbation is a list of LayerSkipConfig."""

    _perturbed = "pred_cond_skip"
    _term = ("skip_layer_guidance_scale", "skip_layer_guidance_start", "skip_layer_guidance_stop")

    def _perturb(self, denoiser: nn.Module) -> list[Perturbation]:
        return [of_skipped(denoiser, config) for config in configs(LayerSkipConfig, self.skip_layer_config)]

    def forward(
        self, pred_cond: Tensor, pred_uncond: Tensor | None = None, pred_cond_skip: Tensor | None = None
    ) -> GuiderOutput:
        """As of all guiders; pred_cond_skip: the conditional prediction of the perturbed network."""
        return self._output(pred_cond=pred_cond, pred_uncond=pred_uncond, pred_cond_skip=pred_cond_skip)


class SkipLayerGuidance(SkippingGuider, host.SkipLayerGuidance):
    """Skip-layer guidance of Stable Diffusion 3.5, and spatio-temporal guidance (arXiv 2411.18664)."""

    __init__ = with_interval(host.SkipLayerGuidance.__init__)


class PerturbedAttentionGuidance(SkippingGuider, host.PerturbedAttentionGuidance):
    """Perturbed-attention guidance: the identity for the map of self-attention (arXiv 2403.17377)."""

    __init__ = with_interval(host.PerturbedAttentionGuidance.__init__)


class SmoothedEnergyGuidance(ThreeOutputs, host.SmoothedEnergyGuidance):
    """Smoothed energy guidance: blurred queries in self-attention (arXiv 2408.00760).

    `seg_blur_sigma`: in tokens; above `seg_blur_threshold_inf` it counts as infinite, where all queries are their mean.
    """

    __init__ = with_interval(host.SmoothedEnergyGuidance.__init__)
    _perturbed = "pred_cond_seg"
    _term = ("seg_guidance_scale", "seg_guidance_start", "seg_guidance_stop")

    def _perturb(self, denoiser: nn.Module) -> list[Perturbation]:
        sigma = math.inf if self.seg_blur_sigma > self.seg_blur_threshold_inf else self.seg_blur_sigma
        given = configs(SmoothedEnergyGuidanceConfig, self.seg_guidance_config)
        return [of_blurred(denoiser, config, sigma) for config in given]

    def forward(
        self, pred_cond: Tensor, pred_uncond: Tensor | None = None, pred_cond_seg: Tensor | None = None
    ) -> GuiderOutput:
        """As of all guiders; pred_cond_seg: the conditional prediction of the perturbed network."""
        return self._output(pred_cond=pred_cond, pred_uncond=pred_uncond, pred_cond_seg=pred_cond_seg)
