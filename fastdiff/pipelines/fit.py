"""`fit_pipeline`: a plan for a pipeline, its prompts and its guidance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ..fitting import MIN_SAMPLES, fit
from ..keywords import options_of
from ..plans.plan import Plan
from .denoiser import denoiser

# What a pipeline says itself.
OWN = ("prediction", "guidance", "uncond", "guidance_mode", "model_dtype", "conditions")


def fit_pipeline(
    pipe: Any,
    prompts: Sequence[str] | None,
    steps: int,
    *,
    samples: int = 8,
    batch: int = 4,
    save_memory: bool = True,
    seed: int = 0,
    cached: Any = None,
    **options: Any,
) -> Plan:
    """The plan of `steps` evaluations whose samples are closest to the pipeline's converged ones: `fastdiff.fit`.

    `PlanScheduler.from_config(pipe.scheduler.config, plan=plan)` runs it in the pipeline.
    prompts: the texts; None where the options have prompt_embeds. They come again until every one of the `samples`
        noises has one. The full fit wants hundreds, of noises more than of prompts.
    batch: samples that the networks see at once. save_memory: recompute activations instead of keeping those of all
        steps. seed: of the noise, and of the fit's batches.
    cached: `fastdiff.cached(pipe.unet)`, or of another of its networks, for a plan with cheap rows where they pay.
        `cached.follow(pipe)` has the pipeline run it.
    options: those of `fastdiff.fit`, such as method=, folder=, seconds=, head=; all others are the pipeline's
        call's, such as guidance_scale= and height=. Fit with those that you will sample with.
    Raises what `fastdiff.fit` and `fastdiff.pipelines.denoiser` raise, and ValueError for what the pipeline says
    itself: prediction=, guidance=, uncond=, model_dtype=.
    """
    if isinstance(prompts, str) or (prompts is not None and not len(prompts)):
        raise ValueError(f"prompts: expected a sequence of texts, got {prompts!r}")
    if not isinstance(samples, int) or samples < MIN_SAMPLES:
        raise ValueError(f"samples: expected a whole number >= {MIN_SAMPLES}, got {samples!r}")
    for name in OWN:
        if name in options:
            raise ValueError(f"{name}: the pipeline says it; leave it out, or use fastdiff.fit on the denoiser")
    fits = {name: options.pop(name) for name in options_of(fit) if name in options}
    given = {} if prompts is None else {"prompt": list(prompts)}
    made = denoiser(pipe, **given, **{"num_inference_steps": steps, **options})
    noise = torch.randn(samples, *made.noise.shape[1:], generator=torch.Generator().manual_seed(seed))
    model = made.model if cached is None else cached.around(made.model)
    return fit(
        model, made.schedule, steps, noise.to(made.noise.device), which=torch.arange(samples) % len(made.noise),
        model_dtype=made.noise.dtype, batch=batch, save_memory=save_memory, seed=seed, **fits,
    )  # fmt: skip
