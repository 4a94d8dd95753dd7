"""Further calls of guidance in ComfyUI: other conditions of the guider, the model with other options, another model.

Each is a dictionary, as `fastdiff.guidance` takes it: "condition" names one of the guider's conditions, "positive"
unless given; "options" is a function of ComfyUI's model_options that returns others; "model" is another ModelPatcher.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

Options = dict[str, Any]
ModelCall = dict[str, Any]


def condition(name: str) -> ModelCall:
    """The call with another condition: a name that `guider` was given."""
    return {"condition": name}


def with_options(change: Callable[[Options], Options]) -> ModelCall:
    """The conditional call with other options. change: model_options -> others; it leaves those given as they are."""
    return {"options": change}


def weak_model(model: Any) -> ModelCall:
    """The conditional call of another MODEL, for `fastdiff.guidance.Autoguidance`.

    model: a ModelPatcher of the same kind, which reads the same conditions, with a network of its own: a clone of the
    guided one shares its weights. It runs with its own options.
    """
    return {"model": model}


def perturbed_attention(block: str = "middle", number: int = 0) -> ModelCall:
    """The conditional call with the identity in place of a U-Net block's self-attention maps (Ahn et al. 2024).

    block: "input", "middle" or "output"; number: which of them.
    """
    return with_options(lambda options: _replaced(options, [("attn1", block, number)], _values))


def skipped_layers(double: Sequence[int] = (), single: Sequence[int] = ()) -> ModelCall:
    """The conditional call without these double and single blocks of a diffusion transformer (skip-layer guidance).

    Raises ValueError where there are none.
    """
    places = [("dit", "double_block", layer) for layer in double] + [("dit", "single_block", layer) for layer in single]
    if not places:
        raise ValueError("double, single: expected the number of a layer, got none")
    return with_options(lambda options: _replaced(options, places, _unchanged))


def _replaced(options: Options, places: Sequence[tuple[str, str, int]], patch: Callable[..., Any]) -> Options:
    """ComfyUI's patches_replace with one more in each place, in copies of all that changes."""
    transformer = dict(options.get("transformer_options", {}))
    patches = {kind: dict(of_kind) for kind, of_kind in transformer.get("patches_replace", {}).items()}
    for kind, block, number in places:
        patches.setdefault(kind, {})[block, number] = patch
    return {**options, "transformer_options": {**transformer, "patches_replace": patches}}


def _values(q: Tensor, k: Tensor, v: Tensor, extra_options: Options, **_: object) -> Tensor:
    return v


def _unchanged(args: Options, extra_options: Options) -> Options:
    return args


def checked(call: object, conditions: Mapping[str, object]) -> ModelCall:
    """A call of a guidance's `extra`, for a guider with these conditions. Raises ValueError where it is none."""
    if not isinstance(call, Mapping) or not call or not set(call) <= {"condition", "options", "model"}:
        raise ValueError(
            "guidance: expected its further calls from fastdiff.comfyui: condition(name), perturbed_attention(),"
            f" skipped_layers(...), weak_model(model) or with_options(function); got {call!r:.60}"
        )
    name = call.get("condition", "positive")
    if name not in conditions:
        raise ValueError(
            f"guidance: it asks for the condition {name!r}, and this run has {', '.join(map(repr, conditions))};"
            " fastdiff.comfyui.guider takes conditions by any name"
        )
    return {"condition": name, **call}
