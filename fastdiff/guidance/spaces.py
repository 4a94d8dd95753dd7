"""The spaces in which methods act: z = p_x x + p_m m, from the model's output m at x = alpha x0 + sigma eps.

Plain guidance is the same in all of them. What takes norms, projections or standard deviations is not.

    output   m itself, whatever the model predicts
    x0       the data
    noise    eps
    flow     eps - x0, the velocity of rectified flow; x enters by its direction alone, so a model of another schedule
             gives the same
    v        alpha eps - sigma x0 (Salimans & Ho 2022, appendix D)
"""

from __future__ import annotations

from ..plans.prediction import convert
from ..sampling.rule import Point

SPACES = {
    "output": None,
    "x0": "sample",
    "noise": "epsilon",
    "flow": "flow_prediction",
    "v": "v_prediction",
}
"""The spaces, each with the prediction whose output lies in it."""


def check_space(space: str) -> None:
    """Raises ValueError naming the spaces."""
    if space not in SPACES:
        raise ValueError(f"space: expected one of {', '.join(SPACES)}, got {space!r}")


def to_space(point: Point, space: str) -> tuple[float, float]:
    """(p_x, p_m) of z at a point. Raises ValueError where the model's output leaves z undetermined."""
    if SPACES[space] in (None, point.prediction):
        return 0.0, 1.0
    if space == "v":
        data, noise = (convert(point.prediction, form, point.alpha, point.sigma) for form in ("data", "noise"))
        p_x, p_m = (point.alpha * n - point.sigma * d for d, n in zip(data, noise, strict=True))
        return p_x, p_m
    return convert(point.prediction, {"x0": "data"}.get(space, space), point.alpha, point.sigma)
