"""model_wrapper: a network, its prediction type and its guidance as a single noise prediction of (x, t)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..plans.prediction import convert
from .noise_schedule import NoiseScheduleVP

PREDICTIONS = {"noise": "epsilon", "x_start": "sample", "v": "v_prediction", "score": "score"}
GUIDANCE = ("uncond", "classifier", "classifier-free")


@dataclass
class WrappedModel:
    """model_fn(x, t [B]) -> noise [B, ...], as `model_wrapper` returns it.

    The solvers look inside it: they call the network itself (`evaluate`), and fold its prediction type and guidance
    into the coefficients of the fused step.
    """

    model: Callable[..., Tensor]
    noise_schedule: NoiseScheduleVP
    model_type: str = "noise"
    model_kwargs: dict[str, object] = field(default_factory=dict)
    guidance_type: str = "uncond"
    condition: Tensor | None = None
    unconditional_condition: Tensor | None = None
    guidance_scale: float = 1.0
    classifier_fn: Callable[..., Tensor] | None = None
    classifier_kwargs: dict[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.model_type not in PREDICTIONS:
            raise ValueError(f"model_type: expected one of {', '.join(PREDICTIONS)}, got {self.model_type!r}")
        if self.guidance_type not in GUIDANCE:
            raise ValueError(f"guidance_type: expected one of {', '.join(GUIDANCE)}, got {self.guidance_type!r}")
        if self.guidance_type == "classifier" and self.classifier_fn is None:
            raise ValueError("classifier_fn: classifier guidance needs one, got None")

    @property
    def prediction(self) -> str:
        """The prediction type of `evaluate` as fastdiff names it; with classifier guidance it is epsilon."""
        return "epsilon" if self.guidance_type == "classifier" else PREDICTIONS[self.model_type]

    @property
    def guided(self) -> bool:
        """Whether `evaluate` also returns an unconditional output."""
        wanted = self.guidance_type == "classifier-free" and self.guidance_scale != 1
        return wanted and self.unconditional_condition is not None

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        time = float(t.reshape(-1)[0])
        point = tuple(float(v) for v in self.noise_schedule.vp.at(time))
        t_input = torch.full((len(x),), self.noise_schedule.model_time(time), dtype=x.dtype, device=x.device)
        output, uncond = self.evaluate(x, t_input, *point[1:])
        if uncond is not None:
            output = uncond + self.guidance_scale * (output - uncond)
        return _noise(x, output, self.prediction, *point[1:])

    def evaluate(self, x: Tensor, t_input: Tensor, alpha: float, sigma: float) -> tuple[Tensor, Tensor | None]:
        """(output, unconditional output or None) of the network at x [B, ...] and t_input [B], in its own units."""
        if self.guidance_type == "classifier":
            noise = _noise(x, self.model(x, t_input, **self.model_kwargs), PREDICTIONS[self.model_type], alpha, sigma)
            return noise - self.guidance_scale * sigma * self._classifier_gradient(x, t_input), None
        if self.guided:
            condition = torch.cat([self.unconditional_condition, self.condition])
            both = self.model(torch.cat([x, x]), torch.cat([t_input, t_input]), condition, **self.model_kwargs)
            uncond, output = both.chunk(2)
            return output, uncond
        condition = () if self.guidance_type == "uncond" or self.condition is None else (self.condition,)
        return self.model(x, t_input, *condition, **self.model_kwargs), None

    def _classifier_gradient(self, x: Tensor, t_input: Tensor) -> Tensor:
        """The gradient of log p(condition | x) with respect to x."""
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            log_prob = self.classifier_fn(x, t_input, self.condition, **self.classifier_kwargs)
            return torch.autograd.grad(log_prob.sum(), x)[0]


def model_wrapper(
    model: Callable[..., Tensor],
    noise_schedule: NoiseScheduleVP,
    model_type: str = "noise",
    model_kwargs: dict[str, object] | None = None,
    guidance_type: str = "uncond",
    condition: Tensor | None = None,
    unconditional_condition: Tensor | None = None,
    guidance_scale: float = 1.0,
    classifier_fn: Callable[..., Tensor] | None = None,
    classifier_kwargs: dict[str, object] | None = None,
) -> WrappedModel:
    """A network as model_fn(x [B, ...], t [B]) -> noise [B, ...], with t in continuous time.

    model: called as model(x, t_input, **model_kwargs). With guidance_type "classifier-free" (Ho & Salimans 2022) it is
    model(x, t_input, condition, **model_kwargs), once on [unconditional_condition; condition] if guidance_scale is not
    1. t_input: see `NoiseScheduleVP.model_time`. model_type: what it predicts: "noise", "x_start", "v" or "score".
    classifier_fn: for guidance_type "classifier" (Dhariwal & Nichol 2021), classifier_fn(x, t_input, condition,
    **classifier_kwargs) -> log p; the result is noise - guidance_scale sigma grad log p.
    Raises ValueError naming the argument.
    """
    return WrappedModel(
        model, noise_schedule, model_type, model_kwargs or {}, guidance_type, condition, unconditional_condition,
        guidance_scale, classifier_fn, classifier_kwargs or {},
    )  # fmt: skip


def _noise(x: Tensor, output: Tensor, prediction: str, alpha: float, sigma: float) -> Tensor:
    p_x, p_m = convert(prediction, "noise", alpha, sigma)
    return p_m * output + p_x * x if p_x else p_m * output
