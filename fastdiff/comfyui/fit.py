"""A plan fitted in a run of ComfyUI, to its model with its conditions, patches and guidance."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..fitting import fit
from ..fitting.budget import clock
from ..fitting.journal import HEADER
from ..guidance import Guidance, Point
from ..plans.plan import Plan
from ..plans.schedule import Schedule
from .levels import Levels
from .model import guidance_of
from .schedule import level_of, schedule_of, up_to

SAMPLES = 8  # noises that the plan is fitted to and judged by
PROGRESS = 1000  # units of ComfyUI's progress bar


@dataclass(frozen=True)
class FitRun:
    """A fit in ComfyUI.

    steps: model evaluations of the plan. seconds: after which the best plan so far is taken. batch: images at once.
    denoise: below 1, for runs that begin with an image at that share of the model's time.
    """

    steps: int
    seconds: float
    batch: int = 4
    denoise: float = 1.0
    seed: int = 0

    def __call__(self, guider: Any, latent: Tensor) -> tuple[Plan, str]:
        """The plan, for x on the model's own schedule, and a table of what was tried.

        guider: a comfy.samplers.CFGGuider with its conditions set. latent: [B, ...] ComfyUI's, whose shape the noises
        have; with denoise < 1, of the images.
        Raises ValueError for guidance that no plan can be fitted to and for denoise < 1 without an image, and what
        `fastdiff.fit` raises. The user's interruption passes through.
        """
        from comfy.samplers import KSAMPLER

        if self.denoise < 1 and not latent.count_nonzero():
            raise ValueError("denoise: below 1 a run begins with an image; connect its latent, not an empty one")
        sampling = guider.model_patcher.get_model_object("model_sampling")
        schedule = up_to(schedule_of(sampling), sampling, self.denoise)
        sigmas = torch.tensor([float(level_of(schedule.at(schedule.t_max))), 0.0])
        check_guidance(guidance_of(guider.model_patcher, guider.cfg), Levels(sampling, sigmas))
        found: list[tuple[Plan, str]] = []

        def run(model: Any, x: Tensor, sigmas: Tensor, extra_args: dict[str, Any], **_: object) -> Tensor:
            denoised = _denoiser(model, schedule, extra_args, self.seconds)
            found.append(self._fit(denoised, schedule, self._starts(model, sampler, sigmas)))
            return x

        sampler = KSAMPLER(run)
        latent = latent[torch.arange(self.batch) % len(latent)]
        guider.sample(torch.zeros_like(latent), latent, sampler, sigmas, disable_pbar=True, seed=self.seed)
        return found[0]

    def _starts(self, model: Any, sampler: Any, sigmas: Tensor) -> Tensor:
        """[SAMPLES, ...] ComfyUI's x where runs with other noises begin."""
        image, generator = model.latent_image, torch.Generator().manual_seed(self.seed)
        whole = sampler.max_denoise(model.inner_model, sigmas)
        drawn = torch.randn((SAMPLES, *image.shape[1:]), generator=generator).to(image)
        images = image[torch.arange(SAMPLES) % len(image)]
        return model.inner_model.inner_model.model_sampling.noise_scaling(sigmas[0], drawn, images, whole)

    def _fit(self, model: Callable[..., Tensor], schedule: Schedule, starts: Tensor) -> tuple[Plan, str]:
        alpha, sigma = (float(value) for value in schedule.at(schedule.t_max)[1:])
        # What `fit` multiplies noise by to begin is the standard deviation of x there, or sigma where alpha is 1.
        unit = {"vp": 1 / alpha if alpha else 1.0, "ve": sigma, "flow": float(np.hypot(alpha, sigma))}[schedule.kind]
        lines = [HEADER]
        with torch.no_grad():  # ComfyUI's weights have no gradients, and its memory is for runs
            plan = fit(
                model, schedule, self.steps, starts.float() / unit,
                prediction="sample", batch=self.batch, seconds=self.seconds, seed=self.seed,
                report=lambda trial: lines.append(str(trial)),
            )  # fmt: skip
        return plan, "\n".join(lines)


def _denoiser(model: Any, schedule: Schedule, extra_args: dict[str, Any], seconds: float) -> Callable[..., Tensor]:
    """model(x, t) -> x0 on the schedule, by ComfyUI's denoiser; it shows how much time is spent."""
    from comfy.model_management import throw_exception_if_processing_interrupted
    from comfy.utils import ProgressBar

    bar, begun = ProgressBar(PROGRESS), clock()

    def denoised(x: Tensor, t: Tensor) -> Tensor:
        throw_exception_if_processing_interrupted()
        bar.update_absolute(min(int(PROGRESS * (clock() - begun) / seconds), PROGRESS))
        point = schedule.at(float(t[0]))
        given = x / float(point.alpha) if schedule.kind == "vp" else x
        return model(given, x.new_full((len(x),), float(level_of(point))), **extra_args)

    denoised.one_time = True  # type: ignore[attr-defined]  # guidance and patches in ComfyUI read the first sigma
    return denoised


def check_guidance(guidance: Guidance | None, levels: Levels) -> None:
    """Raises ValueError for guidance that looks at the number of a step, its end or earlier ones.

    A fit compares runs of other steps, and several at once.
    """
    if guidance is None:
        return
    alpha, sigma = levels.alpha(levels.sigmas[0]) or 1e-3, levels.sigmas[0]
    points = [Point(i, 100, sigma, alpha, sigma, "sample", after=(alpha, share * sigma)) for i, share in _STEPS]
    first, second = (_numbers(guidance, point) for point in points)
    same = len(first) == len(second) and all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    if guidance.stateful or guidance.keeps_uncond or not same:
        raise ValueError(
            f"guidance: {type(guidance).__name__} depends on the step or on earlier ones, and a fit compares runs of"
            " other steps; fit without it"
        )


_STEPS = ((0, 0.9), (60, 0.5))


def _numbers(guidance: Guidance, point: Point) -> list[np.ndarray]:
    """What a rule does at the point, as far as numbers tell; its formula at outputs of unit size, orthogonal."""
    rule = guidance.rule(point)
    given = [rule.calls, rule.scale, rule.weights, rule.basis, rule.past, rule.stop is not None]
    if rule.formula is not None and rule.basis is not None:
        given.append(rule.formula(np.eye(len(rule.basis) + 1)[None]))
    return [np.asarray(value) for value in given if value is not None]
