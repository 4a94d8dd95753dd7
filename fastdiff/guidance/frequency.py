"""Guidance by frequency: frequency-decoupled guidance, and FreSca."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..sampling.rule import Point, Rule
from . import scales
from .pyramid import collapse, laplacian_pyramid
from .scales import Scale, check_number
from .spatial import Spatial, check_dims, spatial_dims


@dataclass(frozen=True, repr=False)
class FrequencyDecoupled(Spatial):
    """Frequency-decoupled guidance (Sadat et al. 2025, "Guidance in the frequency domain enables high-fidelity sampling
    at low CFG scales"): a scale of its own for each band of a Laplacian pyramid,

        y_k = c_k + (g_k - 1) (c_k - u_k)

    from the finest band to the coarsest. Equal scales give CFG.

    scales: g_k; they take (10, 5) for SDXL. Low scales in coarse bands keep colours and diversity.
    parallel: weights of the part of c_k - u_k along c_k, over all elements of a sample's band, as eta of `APG`; one for
        each band; all 1 if None.
    form: "paper", or "diffusers" for u_k + g_k (c_k - u_k), the same where `parallel` is 1.
    dims: the dimensions of x that are space or time; all from the third on if None.
    space: matters for `parallel` only. interval: as for `CFG`.
    Raises ValueError naming the argument.
    """

    scales: Sequence[float] = (10.0, 5.0)
    parallel: Sequence[float] | None = None
    form: str = "paper"
    dims: tuple[int, ...] | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "scales", scales.numbers("scales", self.scales, (1,)))
        if self.parallel is not None:
            object.__setattr__(self, "parallel", scales.numbers("parallel", self.parallel, (1,)))
            if len(self.parallel) != len(self.scales):
                raise ValueError(f"parallel: expected one for each of {len(self.scales)} bands, got {self.parallel}")
        if self.form not in ("paper", "diffusers"):
            raise ValueError(f"form: expected 'paper' or 'diffusers', got {self.form!r}")

    def inside(self, point: Point) -> Rule:
        """The rule; the conditional call alone where it is the result."""
        if set(self.scales) == {1.0} and (self.form == "paper" or self.parallel is None):
            return Rule()
        return super().inside(point)

    def combined(self, point: Point, cond: Tensor, uncond: Tensor) -> Tensor:
        """y from its bands."""
        dims, levels = spatial_dims(self.dims, cond.ndim), len(self.scales)
        differences = laplacian_pyramid(cond - uncond, levels, dims)
        if self.parallel is None:
            return cond + collapse([(g - 1) * d for g, d in zip(self.scales, differences, strict=True)], dims)
        added = []
        bands = laplacian_pyramid(cond, levels, dims)
        for g, eta, d, c in zip(self.scales, self.parallel, differences, bands, strict=True):
            damped = d + (eta - 1) * _projection(d, c)
            added.append((g - 1) * damped if self.form == "paper" else g * damped - d)
        return cond + collapse(added, dims)

    def by_position(self, dim: int, ndim: int) -> bool:
        """Along dimensions that the pyramid does not go over, where nothing is projected."""
        return self.parallel is None and dim not in spatial_dims(self.dims, ndim)

    def check(self, shape: Sequence[int]) -> None:
        """Raises ValueError where samples of this shape have no dimensions of space."""
        check_dims(self.dims, shape)


def _projection(d: Tensor, c: Tensor) -> Tensor:
    """The part of d along c, over each sample; 0 where c is 0. The inner products are summed in float64."""
    over = tuple(range(1, d.ndim))
    d64, c64 = d.double(), c.double()
    square = (c64 * c64).sum(over, keepdim=True)
    weight = torch.where(square > 0, (d64 * c64).sum(over, keepdim=True) / square.where(square > 0, 1.0), 0.0)
    return weight.to(d.dtype) * c


@dataclass(frozen=True, repr=False)
class FreSca(Spatial):
    """FreSca (Huang et al. 2025, "FreSca: scaling in frequency space enhances diffusion models"):

        y = u + g F(c - u)

    where F multiplies the low frequencies, those with |k| < cutoff in every dimension, by `low` and the others by
    `high`; k counts periods over the whole sample, as in ComfyUI's node of that name. It is the same in every space.

    scale: g, a number or a function of the point that returns one. low, high, cutoff: 1, 1.25 and 20 in that node. All
        frequencies are low where there are no more than 2 cutoff positions.
    dims: the dimensions of x that are space or time; all from the third on if None. interval: as for `CFG`.
    Raises ValueError naming the argument.
    """

    scale: Scale = 7.5
    low: float = 1.0
    high: float = 1.25
    cutoff: int = 20
    dims: tuple[int, ...] | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "scale", scales.scale_field("scale", self.scale, (0,)))
        check_number("low", self.low)
        check_number("high", self.high)
        if check_number("cutoff", self.cutoff, 1.0) % 1:
            raise ValueError(f"cutoff: expected a whole number, got {self.cutoff}")

    def combined(self, point: Point, cond: Tensor, uncond: Tensor) -> Tensor:
        """y by a Fourier transform of the difference."""
        scale = scales.number_at(self.scale, point)
        return uncond + scale * self.filtered(cond - uncond)

    def filtered(self, difference: Tensor) -> Tensor:
        """F of a difference."""
        dims = spatial_dims(self.dims, difference.ndim)
        low = torch.ones((), dtype=torch.bool, device=difference.device)
        for dim in dims:
            n = difference.shape[dim]
            k = torch.fft.fftfreq(n, 1 / n, device=difference.device).round()
            inside = (-self.cutoff <= k) & (k < self.cutoff)
            low = low & inside.view([-1 if d == dim else 1 for d in range(difference.ndim)])
        spectrum = torch.fft.fftn(difference, dim=dims)
        return torch.fft.ifftn(spectrum * torch.where(low, self.low, self.high), dim=dims).real

    def by_position(self, dim: int, ndim: int) -> bool:
        """Along dimensions that are not transformed."""
        return dim not in spatial_dims(self.dims, ndim)

    def check(self, shape: Sequence[int]) -> None:
        """Raises ValueError where samples of this shape have no dimensions of space."""
        check_dims(self.dims, shape)
