"""`denoiser`: a pipeline as the model, schedule, noise and conditions of `fastdiff.sample`."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..plans.schedule import Schedule
from .arguments import check_arguments, check_pipeline
from .model import PipelineModel


class Denoiser(NamedTuple):
    """`fastdiff.sample(model, fastdiff.plan(solver, schedule, steps), noise, **conditions)` runs a pipeline.

    model: model(x, t, which=None) -> prediction, x and t in the schedule's units. schedule: of the pipeline's
    scheduler; its default prediction is the model's. noise: [N, ...] the pipeline's own for its generator, unit
    Gaussian. conditions: {"which": [N]}, for each sample the number of its prompt. Other noise of the same shape may be
    drawn, with any prompts: {"which": torch.tensor([0, 0, 2])}.
    """

    model: PipelineModel
    schedule: Schedule
    noise: Tensor
    conditions: dict[str, Tensor]

    def decode(self, x0: Tensor, which: Tensor | None = None) -> Any:
        """What the pipeline makes of x0 [B, ...], as its `output_type` says: images, videos or sounds."""
        return self.model.decode(x0, which)

    def times(self, steps: int) -> np.ndarray:
        """[steps] where the pipeline's own scheduler evaluates: `fastdiff.plan(solver, schedule, grid=d.times(20))`."""
        return self.model.times(steps)


@torch.no_grad()
def denoiser(pipe: Any, **arguments: Any) -> Denoiser:
    """What `fastdiff.sample` and `fastdiff.fit` take, of any text-to-image, video or sound pipeline of diffusers.

    pipe: the pipeline. It is not changed, and its scheduler says the schedule alone.
    arguments: those of its call: prompt=, negative_prompt=, guidance_scale=, height=, generator=, output_type= and so
        on. num_inference_steps is read by pipelines alone whose shift depends on it. Prompts are encoded here, once.

    The model does all that the pipeline does between its latents and its scheduler's step, in every evaluation:
    guidance and its rescaling, one network or two by noise level, ids, masks, learned variances. With guidance_scale=1,
    or what a pipeline has for no guidance, the prompts' own predictions come out, for a guidance of `fastdiff`:

        d = denoiser(pipe, prompt=["a cat", ""], guidance_scale=1.0)
        cat, empty = {"which": torch.tensor([0])}, {"which": torch.tensor([1])}
        x0 = fd.sample(d.model, plan, d.noise[:1], **cat, uncond=empty, guidance=fd.guidance.APG(7.5))

    Raises TypeError for what is no pipeline and for arguments that it does not take; ValueError where the pipeline does
    what one evaluation cannot say: begins from an image, changes with the number of the step, keeps outputs from step
    to step, makes its noise inside its loop.
    """
    check_pipeline(pipe)
    check_arguments(pipe, arguments)
    model = PipelineModel(pipe, arguments)
    return Denoiser(model, model.schedule, model.noise, {"which": torch.arange(len(model.noise))})
