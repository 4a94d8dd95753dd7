"""One guided run of ComfyUI: its calls and their combination, as functions in the run's own model_options."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..guidance import Combiner, Guidance, Point
from .calls import ModelCall, checked
from .levels import Levels

CALLS = "sampler_calc_cond_batch_function"  # ComfyUI's name for a function that evaluates the model's conditions
AFTER = "sampler_post_cfg_function"  # and for those that run on the guided output
WANTS_UNCOND = "disable_cfg1_optimization"  # by which others ask for the unconditional output
PROMPTS: tuple[ModelCall, ModelCall] = ({"condition": "positive"}, {"condition": "negative"})


class GuidedRun:
    """Applies a guidance to one run of a guider; two runs share nothing.

    guider: a running comfy.samplers.CFGGuider. sigmas: [n + 1]. shape: of x. weak: the ModelPatchers that ComfyUI has
    loaded beside its own. Raises ValueError where a condition or a model that the guidance asks for is missing.
    """

    def __init__(
        self, guidance: Guidance, guider: Any, sigmas: Tensor, shape: torch.Size, weak: Sequence[Any] = ()
    ) -> None:
        guidance.check(shape)
        self.conditions: dict[str, Any] = guider.conds
        for prompt in PROMPTS if guidance.needs_uncond else PROMPTS[:1]:
            checked(prompt, self.conditions)
        self.all_calls = [*PROMPTS, *(checked(call, self.conditions) for call in guidance.extra)]
        self.weak = {
            number: _loaded(call["model"], weak) for number, call in enumerate(self.all_calls) if "model" in call
        }
        self.levels = Levels(guider.inner_model.model_sampling, sigmas)
        self.combiner = Combiner(guidance)
        self._inner: Any = None
        self._made: tuple[Point, list[Tensor | None]] | None = None

    def install(self, options: dict[str, Any]) -> None:
        """Put the run's functions into its model_options: before those of others that see the guided output."""
        self._inner = options.get(CALLS)
        options[CALLS] = self.calls
        options[AFTER] = [self.combined, *options.get(AFTER, [])]

    def calls(self, args: dict[str, Any]) -> list[Tensor]:
        """Make the calls that the rule names. Returns the conditional and the unconditional output, for others to see.

        Where one of them was not made, the other stands for it; where neither was, x.
        """
        point = self.levels.point(args["sigma"])
        wanted = {number for number in self.combiner.rule(point).calls if number is not None}
        seen = {0, 1} if args["model_options"].get(WANTS_UNCOND) and "negative" in self.conditions else set()
        outputs = self._outputs(wanted | seen, args)
        self._made = point, outputs
        shown = [m for m in outputs[:2] if m is not None] or [args["input"]]
        return [shown[0], shown[-1]]

    def combined(self, args: dict[str, Any]) -> Tensor:
        """The guided output, of the two outputs as other functions may have changed them, and of the further ones."""
        assert self._made is not None, "ComfyUI evaluates the conditions before it combines them"
        (point, outputs), self._made = self._made, None
        for number, name in enumerate(("cond_denoised", "uncond_denoised")):
            if outputs[number] is not None:
                outputs[number] = args[name]
        return self.combiner(point, args["input"], outputs)

    def _outputs(self, numbers: set[int], args: dict[str, Any]) -> list[Tensor | None]:
        """The outputs by call. Those of the run's own model with its own options are made together."""
        outputs: list[Tensor | None] = [None] * len(self.all_calls)
        plain = {number: number for number in numbers if set(self.all_calls[number]) == {"condition"}}
        groups = [plain] if plain else []
        # Patches of a network know the positive prompt by its place 0 and the negative one by 1: each has its own.
        own = {name["condition"]: place for place, name in enumerate(PROMPTS)}
        groups += [{n: own.get(self.all_calls[n]["condition"], n)} for n in sorted(numbers - set(plain))]
        for places in groups:
            conditions: list[Any] = [None] * (max(places.values()) + 1)
            for number, place in places.items():
                conditions[place] = self.conditions[self.all_calls[number]["condition"]]
            evaluated = self._evaluate(conditions, self._changed(min(places), args))
            for number, place in places.items():
                outputs[number] = evaluated[place]
        return outputs

    def _changed(self, number: int, args: dict[str, Any]) -> dict[str, Any]:
        """ComfyUI's arguments with the model and the options of a call."""
        weak, change = self.weak.get(number), self.all_calls[number].get("options", dict)
        if weak is None:
            return {**args, "model_options": change(args["model_options"])}
        return {**args, "model": weak.model, "model_options": change(weak.model_options)}

    def _evaluate(self, conditions: list[Any], args: dict[str, Any]) -> list[Tensor]:
        """ComfyUI's evaluation of conditions; None is no call."""
        if self._inner is not None:
            return self._inner({**args, "conds": conditions})
        from comfy.samplers import calc_cond_batch

        return calc_cond_batch(args["model"], conditions, args["input"], args["sigma"], args["model_options"])


def _loaded(model: Any, patchers: Sequence[Any]) -> Any:
    """The patcher that ComfyUI has loaded for a model: a clone of the one that was given."""
    for patcher in patchers:
        if patcher.model is model.model:
            return patcher
    raise ValueError("weak_model: ComfyUI has not loaded it; give `guided` the guidance itself, not a function")
