"""The guider of LTX-2."""

from __future__ import annotations

import math

import diffusers.guiders as host
from diffusers.guiders.guider_utils import GuiderOutput
from torch import Tensor

from ..guidance import Term, Terms
from ..sampling.rule import Guidance
from .constructor import with_interval
from .guider import Guider, Moment

_SCALES = {  # each prediction's scale, and the scale at which it is not needed
    "pred_uncond": ("guidance_scale", 1.0),
    "pred_cond_stg": ("stg_scale", 0.0),
    "pred_cond_modality": ("modality_scale", 1.0),
}


class LTX2Guidance(Guider, host.LTX2Guidance):
    """y = c + (g - 1) (c - u) + s (c - c_stg) + (m - 1) (c - c_modality), on x0, which LTX-2's pipelines hand over."""

    __init__ = with_interval(host.LTX2Guidance.__init__)

    def _active(self, moment: Moment | None) -> list[str]:
        if not self._guided(moment, self._start, self._stop):
            return ["pred_cond"]
        return ["pred_cond", *(name for name in _SCALES if self._weight(name))]

    def _weight(self, name: str) -> float:
        scale, neutral = _SCALES[name]
        weight = getattr(self, scale) - neutral
        return 0.0 if math.isclose(weight, 0.0, abs_tol=1e-9) else weight

    def _method(self, names: list[str]) -> Guidance:
        weights = {name: self._weight(name) if name in names else 0.0 for name in _SCALES}
        terms = [Term(weights[name], {"prediction": name}) for name in ("pred_cond_stg", "pred_cond_modality")]
        return Terms(1 + weights["pred_uncond"], terms=terms, rescale=self.guidance_rescale)

    def forward(
        self,
        pred_cond: Tensor,
        pred_uncond: Tensor | None = None,
        pred_cond_stg: Tensor | None = None,
        pred_cond_modality: Tensor | None = None,
    ) -> GuiderOutput:
        """As of all guiders; the last two are conditional predictions, of a perturbed network and of each modality."""
        perturbed = {"pred_cond_stg": pred_cond_stg, "pred_cond_modality": pred_cond_modality}
        return self._output(pred_cond=pred_cond, pred_uncond=pred_uncond, **perturbed)

    def _input_of(self, name: str) -> int:
        return self._PREDICTION_INDEX[name]

    @property
    def is_conditional(self) -> bool:
        """Always true: the pipelines perturb the network themselves."""
        return True

    def active_predictions(self) -> list[str]:
        """The names of the predictions that this step needs."""
        return self._active(self._moment)

    def is_cfg_enabled(self) -> bool:
        """Whether this step needs the unconditional prediction."""
        return "pred_uncond" in self.active_predictions()

    def is_stg_enabled(self) -> bool:
        """Whether this step needs the prediction with perturbed blocks."""
        return "pred_cond_stg" in self.active_predictions()

    def is_modality_enabled(self) -> bool:
        """Whether this step needs the prediction of each modality by itself."""
        return "pred_cond_modality" in self.active_predictions()
