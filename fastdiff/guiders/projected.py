"""Guiders that take the part along the conditional output out of the difference."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import diffusers.guiders as host
from torch import Tensor

from ..guidance import APG
from ..guidance.combination import change, vector
from ..guidance.spaces import to_space
from ..sampling.rule import Guidance, Point, Rule
from .along import dimensions, projected, rescaled
from .constructor import with_interval
from .two_outputs import TwoOutputs


class Projected(TwoOutputs):
    """Guiders that apply adaptive projected guidance (Sadat et al. 2025, arXiv 2410.02416, Algorithm 1).

    On the network's output, and with y = u + g (...) in place of the paper's y = c + (g - 1) (...), as in diffusers. A
    guider that follows a scheduler is the paper's: on x0, from c.
    """

    _reads_sample = True
    adaptive_projected_guidance_momentum: Any  # a number, or None for no momentum
    adaptive_projected_guidance_rescale: float
    eta: float

    def _projection(self, scale: float) -> APG:
        bound = self.adaptive_projected_guidance_rescale
        return APG(
            scale,
            norm=bound if bound > 0 else None,
            eta=self.eta,
            momentum=self.adaptive_projected_guidance_momentum,
            space=self._space,
            form="paper" if self._acts_on_x0 or self.use_original_formulation else "diffusers",
            rescale=self.guidance_rescale,
        )

    @property
    def _space(self) -> str:
        return "x0" if self._acts_on_x0 else "output"


class AdaptiveProjectedGuidance(Projected, host.AdaptiveProjectedGuidance):
    """Adaptive projected guidance; see `Projected`.

    `adaptive_projected_guidance_norm_dim`: the dimensions over which norms and inner products are taken.
    """

    __init__ = with_interval(host.AdaptiveProjectedGuidance.__init__)
    _momentum: Tensor | None = None

    def _method(self, names: list[str]) -> APG:
        return self._projection(self._scale)

    def _begin_run(self) -> None:
        super()._begin_run()
        self._momentum = None

    def _guide(self, names: list[str], predictions: dict[str, Tensor]) -> Tensor:
        pred_cond = predictions["pred_cond"]
        dims = dimensions(self.adaptive_projected_guidance_norm_dim, pred_cond.ndim)
        if dims is None or names == ["pred_cond"]:
            return super()._guide(names, predictions)
        method, (point, x) = self._method(names), self._place(pred_cond)
        pred, self._momentum = projected(
            method, self._scale, point, x, pred_cond, predictions["pred_uncond"], self._momentum, dims
        )
        return rescaled(pred, pred_cond, method.rescale).to(pred_cond.dtype)


class AdaptiveProjectedMixGuidance(Projected, host.AdaptiveProjectedMixGuidance):
    """CFG before `adaptive_projected_guidance_start_step`, and adaptive projected guidance from that step on.

    CFG's differences enter the momentum.
    """

    __init__ = with_interval(host.AdaptiveProjectedMixGuidance.__init__)

    def _method(self, names: list[str]) -> Guidance:
        if (self._step or 0) >= self.adaptive_projected_guidance_start_step:
            return self._projection(self.adaptive_projected_guidance_scale + bool(self.use_original_formulation))
        return Gathering(self._scale, self.adaptive_projected_guidance_momentum, self._space, self.guidance_rescale)

    def _is_apg_enabled(self) -> bool:
        moment = self._moment
        started = moment is not None and moment.step >= self.adaptive_projected_guidance_start_step
        return started and self._acts(moment)

    def _is_cfg_enabled(self) -> bool:
        return self._acts(self._moment)


@dataclass(frozen=True)
class Gathering(Guidance):
    """CFG that gathers APG's momentum, d_n = (c - u) + beta d_(n-1), without making use of it."""

    scale: float
    momentum: float | None
    space: str
    rescale: float

    @property
    def stateful(self) -> bool:
        """Whether there is momentum."""
        return bool(self.momentum)

    def rule(self, point: Point) -> Rule:
        """y = u + g (c - u), and the next state in units of the space."""
        _, p_m = to_space(point, self.space)
        state = vector(p_m, -p_m, state=self.momentum) if self.momentum else None
        return change((0, 1), [vector(1.0, -1.0)], [self.scale - 1], rescale=self.rescale, state=state)
