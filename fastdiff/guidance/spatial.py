"""Base of the methods that treat positions or frequencies differently, and are no weighted sums."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from ..ops.reference import compute_dtype
from ..sampling.rule import Point, Rule
from .spaces import check_space, to_space
from .windowed import Windowed


@dataclass(frozen=True, eq=False, repr=False)
class Spatial(Windowed):
    """Base of the methods whose result is a function of c and u in a space, by position or by frequency.

    space: "output", "x0", "noise", "flow" or "v"; see `fastdiff.guidance.spaces`.
    """

    space: str = field(default="output", kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_space(self.space)

    def inside(self, point: Point) -> Rule:
        """The rule: a function of the outputs."""
        p_x, p_m = to_space(point, self.space)
        if p_m == 0:
            raise ValueError(f"space: {self.space} does not depend on the model's output at t = {point.t:g}")

        def combine(x: Tensor, outputs: Sequence[Tensor]) -> Tensor:
            cond, uncond = (m.to(compute_dtype(m.dtype)) for m in outputs)
            if (p_x, p_m) == (0.0, 1.0):
                y = self.combined(point, cond, uncond)
            else:
                shift = p_x / p_m * x.to(cond.dtype)
                y = self.combined(point, p_m * (cond + shift), p_m * (uncond + shift)) / p_m - shift
            return y.to(outputs[0].dtype)

        return Rule((0, 1), combine=combine)

    def combined(self, point: Point, cond: Tensor, uncond: Tensor) -> Tensor:
        """The result from both outputs, in the space."""
        raise NotImplementedError


def spatial_dims(dims: Sequence[int] | None, ndim: int) -> tuple[int, ...]:
    """The dimensions of space and time of a tensor: all from the third on, or those given."""
    return tuple(range(2, ndim)) if dims is None else tuple(dim % ndim for dim in dims)


def check_dims(dims: Sequence[int] | None, shape: Sequence[int]) -> None:
    """Raises ValueError where samples of this shape have no such dimensions."""
    ndim = len(shape)
    if dims is not None and any(not -ndim < dim < ndim or dim == 0 for dim in dims):
        raise ValueError(f"dims: expected dimensions of {tuple(shape)} after the first, got {dims}")
    if not spatial_dims(dims, ndim):
        raise ValueError(f"dims: samples of {tuple(shape)} have no dimensions of space; name them")
