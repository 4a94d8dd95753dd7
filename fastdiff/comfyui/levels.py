"""ComfyUI's noise levels as points: all its models return the denoised x0 at (x, sigma)."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..sampling.rule import Point

_SLACK = 1e-6  # a level in float32 beside the same one in another precision

_SPACES = {"CONST": "flow", "EDM": "x0", "V_PREDICTION": "v", "EPS": "noise"}  # ComfyUI's classes, heirs first


class Levels:
    """The levels of one run: x = x0 + sigma eps, or (1 - sigma) x0 + sigma eps for rectified flows.

    model_sampling: ComfyUI's. sigmas: [n + 1], of the whole run; the host waits for the device to read them.
    """

    def __init__(self, model_sampling: Any, sigmas: Tensor) -> None:
        self.flow = is_flow(model_sampling)
        self.sigmas: list[float] = sigmas.tolist()

    def alpha(self, sigma: float) -> float:
        """The factor of x0."""
        return 1 - sigma if self.flow else 1.0

    def point(self, sigma: Tensor) -> Point:
        """The point at sigma [B], one level for all samples.

        i is the number of the step that it lies in, and n the number of steps, since a sampler may call the model
        several times a step. t is sigma. after is the end of the step.
        """
        level = float(sigma[0])
        starts, last = self.sigmas[:-1], len(self.sigmas) - 2
        falls = self.sigmas[0] >= self.sigmas[-1]
        sign = 1 if falls else -1
        begun = sum(sign * start >= sign * level * (1 - sign * _SLACK) for start in starts)
        i = min(max(begun - 1, 0), last)
        end = self.sigmas[i + 1]
        return Point(i, last + 1, level, self.alpha(level), level, "sample", after=(self.alpha(end), end))


def is_flow(model_sampling: object) -> bool:
    """Whether ComfyUI's model_sampling is that of a rectified flow."""
    return any(kind.__name__ == "CONST" for kind in type(model_sampling).__mro__)


def own_space(model_sampling: object) -> str:
    """The space of the network's own output, as `fastdiff.guidance` names it; "x0" for those that are a mixture."""
    for kind in type(model_sampling).__mro__:
        if kind.__name__ in _SPACES:
            return _SPACES[kind.__name__]
    return "x0"


def interval_of(model_sampling: Any, start_percent: float, end_percent: float) -> tuple[float, float] | None:
    """(low, high) of sigma / alpha from ComfyUI's percentages of the model's time; None for all of it.

    They are of the model's time and not of the steps, so the levels are the same with any number of steps. Raises
    ValueError unless start_percent < end_percent.
    """
    if not 0 <= start_percent < end_percent <= 1:
        raise ValueError(
            f"start_percent, end_percent: expected 0 <= start < end <= 1, got {start_percent} and {end_percent}"
        )
    if start_percent == 0 and end_percent == 1:
        return None
    low = 0.0 if end_percent == 1 else float(model_sampling.percent_to_sigma(end_percent))
    high = float("inf") if start_percent == 0 else float(model_sampling.percent_to_sigma(start_percent))
    if is_flow(model_sampling):
        low, high = (sigma / (1 - sigma) if sigma < 1 else float("inf") for sigma in (low, high))
    return low, high
