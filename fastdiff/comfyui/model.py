"""Guidance set on ComfyUI's models, and guiders with any conditions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

from ..guidance import Guidance
from .run import GuidedRun

SAMPLE = "sampler_sample"  # ComfyUI's name for wrappers around a sampler's run
KEY = "fastdiff_guidance"

Given = Guidance | Callable[[float], Guidance]


def guided(model: Any, guidance: Given) -> Any:
    """A clone of a ModelPatcher whose runs are guided: y takes the place of ComfyUI's CFG.

    guidance: an object of `fastdiff.guidance`; or a function of the sampler's cfg scale that returns one. Its numbers
    are those of ComfyUI's space: the model's output is x0 at x = x0 + sigma eps, or (1 - sigma) x0 + sigma eps. Further
    calls are made by `condition`, `perturbed_attention`, `skipped_layers` and `with_options`.

    Exactly the calls that the guidance names at a level are made, plain ones in one batch; and the unconditional one
    where another function asks for it, as CFG++ samplers do. What other nodes do before and after CFG stays in force.
    A later call of this function replaces the guidance. A `weak_model` must be in the object itself, not in what a
    function returns: ComfyUI loads models before a run.
    Raises TypeError for anything else than guidance and ValueError for a weak model that shares the model's weights; in
    a run, ValueError where a condition is missing or the numbers do not fit the batch.
    """
    if not callable(guidance) and not isinstance(guidance, Guidance):
        raise TypeError(f"guidance: expected a fastdiff.guidance object or a function, got {type(guidance).__name__}")
    clone = model.clone()
    clone.remove_wrappers_with_key(SAMPLE, KEY)
    clone.add_wrapper_with_key(SAMPLE, KEY, _Wrapper(guidance))
    extra = guidance.extra if isinstance(guidance, Guidance) else ()
    weak: list[Any] = [call["model"] for call in extra if isinstance(call, Mapping) and "model" in call]
    if any(other.model is clone.model for other in weak):
        raise ValueError("weak_model: expected a model with weights of its own, got a clone of the guided one")
    clone.remove_additional_models(KEY)
    if weak:
        clone.set_additional_models(KEY, weak)
    return clone


def guidance_of(model: Any, cfg: float) -> Guidance | None:
    """What `guided` has set on a ModelPatcher, at the sampler's cfg scale; None where it has not."""
    wrappers = model.wrappers.get(SAMPLE, {}).get(KEY, [])
    return wrappers[-1].at(cfg) if wrappers else None


class _Wrapper:
    """ComfyUI calls it around each run of a sampler."""

    def __init__(self, guidance: Given) -> None:
        self.guidance = guidance

    def at(self, cfg: float) -> Guidance:
        """The guidance at the sampler's cfg scale."""
        return self.guidance if isinstance(self.guidance, Guidance) else self.guidance(cfg)

    def __call__(
        self,
        executor: Callable[..., Any],
        guider: Any,
        sigmas: Any,
        extra_args: dict[str, Any],
        *rest: Any,
        **named: Any,
    ) -> Any:
        guidance = self.at(guider.cfg)
        noise = rest[1] if len(rest) > 1 else named["noise"]
        weak = guider.model_patcher.get_additional_models_with_key(KEY)
        GuidedRun(guidance, guider, sigmas, noise.shape, weak).install(extra_args["model_options"])
        with ExitStack() as after:
            for patcher in weak:
                patcher.pre_run()
                after.callback(patcher.cleanup)
            return executor(guider, sigmas, extra_args, *rest, **named)


def guider(
    model: Any, guidance: Given, positive: Any, negative: Any = None, cfg: float = 1.0, **conditions: Any
) -> Any:
    """A guider for SamplerCustomAdvanced: a comfy.samplers.CFGGuider that runs `guided(model, guidance)`.

    positive, negative, conditions: CONDITIONING. Further conditions are encoded as negative prompts are; `condition`
    names them. cfg: the scale that a guidance given as a function gets, and that other nodes see.
    """
    from comfy.samplers import CFGGuider

    made = CFGGuider(guided(model, guidance))
    further = {
        name: [[c, {**values, "prompt_type": "negative"}] for c, values in given] for name, given in conditions.items()
    }
    made.inner_set_conds({"positive": positive, **({} if negative is None else {"negative": negative}), **further})
    made.set_cfg(cfg)
    return made
