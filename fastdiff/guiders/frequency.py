"""Frequency-decoupled guidance."""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import diffusers.guiders as host
import torch
from torch import Tensor

from ..guidance.pyramid import collapse, laplacian_pyramid
from ..ops.reference import compute_dtype
from ..sampling.rule import Guidance, Point, Rule
from .along import rescaled
from .constructor import with_interval
from .guider import Guider, Moment


def _construct(self: FrequencyDecoupledGuidance, **given: Any) -> None:
    """What diffusers' constructor does, without kornia."""
    bound = _SIGNATURE.bind(self, **given)
    bound.apply_defaults()
    options = {name: value for name, value in bound.arguments.items() if name != "self"}
    self.register_to_config(**options)
    self.guidance_scales = list(options["guidance_scales"])
    self.levels = len(self.guidance_scales)
    self.guidance_start, self.guidance_stop = (self._of_each_band(name, options[name]) for name in ("start", "stop"))
    host.BaseGuidance.__init__(self, min(self.guidance_start), max(self.guidance_stop), options["enabled"])
    self.guidance_rescale = self._of_each_band("guidance_rescale", options["guidance_rescale"])
    weights = options["parallel_weights"]
    self.parallel_weights = self._of_each_band("parallel_weights", 1.0 if weights is None else weights)
    for name in ("guidance_rescale_space", "use_original_formulation", "upcast_to_double"):
        setattr(self, name, options[name])
    if self.guidance_rescale_space not in ("data", "freq"):
        raise ValueError(f"guidance_rescale_space: expected 'data' or 'freq', got {self.guidance_rescale_space!r}")


_SIGNATURE = inspect.signature(host.FrequencyDecoupledGuidance.__init__)
_construct.__signature__ = _SIGNATURE  # type: ignore[attr-defined]


class FrequencyDecoupledGuidance(Guider, host.FrequencyDecoupledGuidance):
    """CFG with a scale of its own for each band of a Laplacian pyramid, the finest first (arXiv 2506.19713).

    Outside of its window a band is the conditional output's. kornia is not needed.
    """

    __init__ = with_interval(_construct)

    def _of_each_band(self, name: str, value: Any) -> list[float]:
        values = list(value) if isinstance(value, list | tuple) else [value] * self.levels
        if len(values) != self.levels:
            raise ValueError(f"{name}: expected a number or {self.levels}, as many as guidance_scales, got {value}")
        return values

    def _scales(self, moment: Moment | None) -> list[float]:
        """Of each band, counted from the unconditional output; 1 outside of its window."""
        added = float(bool(self.use_original_formulation))
        bands = zip(self.guidance_scales, self.guidance_start, self.guidance_stop, strict=True)
        return [g + added if self._guided(moment, start, stop) else 1.0 for g, start, stop in bands]

    def _active(self, moment: Moment | None) -> list[str]:
        acts = any(not math.isclose(scale, 1.0) for scale in self._scales(moment))
        return ["pred_cond", "pred_uncond"] if acts else ["pred_cond"]

    def _method(self, names: list[str]) -> Guidance:
        bands = zip(self._scales(self._moment), self.parallel_weights, self.guidance_rescale, strict=True)
        in_bands = self.guidance_rescale_space == "freq"
        return Bands(tuple(bands), bool(self.use_original_formulation), in_bands)


@dataclass(frozen=True)
class Bands(Guidance):
    """y_k = c_k + (g_k - 1) D_k, or u_k + g_k D_k, D_k = c_k - u_k with its part along c_k times a weight.

    bands: (g, weight, rescale) of each; where g is 1, y_k = c_k. original: the first form. in_bands: whether each band
    is rescaled by itself; else the result is, by the first band's.
    """

    bands: tuple[tuple[float, float, float], ...]
    original: bool
    in_bands: bool

    def rule(self, point: Point) -> Rule:
        """The rule, which is no weighted sum."""
        return Rule((0, 1), combine=self._combined)

    def _combined(self, x: Tensor, outputs: Sequence[Tensor]) -> Tensor:
        if outputs[0].ndim < 4:
            shape = tuple(outputs[0].shape)
            raise ValueError(f"pred_cond: expected [B, C, ..., H, W], since packed tokens have no bands, got {shape}")
        dtype = compute_dtype(outputs[0].dtype)
        cond, uncond = (m.to(dtype) for m in outputs)
        dims = range(2, cond.ndim)
        pyramids = (laplacian_pyramid(t, len(self.bands), dims) for t in (cond, cond - uncond))
        y = collapse([self._guided(c, d, *band) for c, d, band in zip(*pyramids, self.bands, strict=True)], dims)
        return (y if self.in_bands else rescaled(y, cond, self.bands[0][2])).to(outputs[0].dtype)

    def _guided(self, c: Tensor, d: Tensor, scale: float, weight: float, phi: float) -> Tensor:
        """One band, from the conditional output's and the difference's."""
        if math.isclose(scale, 1.0):
            return c
        damped = d if math.isclose(weight, 1.0) else d + (weight - 1) * _along(d, c)
        y = c + (scale - 1) * damped if self.original else c - d + scale * damped
        return rescaled(y, c, phi) if self.in_bands else y


def _along(d: Tensor, c: Tensor) -> Tensor:
    """The part of d along c, over each sample; 0 where c is 0."""
    over = tuple(range(1, c.ndim))
    square = (c * c).sum(over, keepdim=True)
    return torch.where(square > 0, (d * c).sum(over, keepdim=True) / square, 0.0) * c
