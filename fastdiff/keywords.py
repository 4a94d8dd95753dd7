"""Misspelt keywords: the option that was meant, and models that would swallow it."""

from __future__ import annotations

import difflib
import functools
import inspect
from collections.abc import Callable, Iterable, Mapping

# What other packages call our options.
ELSEWHERE = {
    "num_inference_steps": "steps",
    "num_steps": "steps",
    "n_steps": "steps",
    "timesteps": "grid",
    "timestep_spacing": "grid",
    "prediction_type": "prediction",
    "strength": "start",
    "guidance_scale": "guidance",
    "cfg_scale": "guidance",
}


@functools.lru_cache(maxsize=1024)
def meant(name: str, known: tuple[str, ...]) -> str | None:
    """The one of `known` that a misspelt or foreign name stands for, or None.

    A misspelling shares four letters of five with it and is longer or shorter by one at most: `cond` is not `uncond`.
    """
    if ELSEWHERE.get(name) in known:
        return ELSEWHERE[name]
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.8)
    return near[0] if near and abs(len(near[0]) - len(name)) <= 1 else None


@functools.cache
def options_of(*functions: Callable) -> tuple[str, ...]:
    """The names of their keyword-only parameters."""
    kinds = [p for f in functions for p in inspect.signature(f).parameters.values()]
    return tuple(dict.fromkeys(p.name for p in kinds if p.kind is inspect.Parameter.KEYWORD_ONLY))


def check_keywords(model: Callable, given: Iterable[str], known: tuple[str, ...]) -> None:
    """Raises TypeError for a keyword that cannot be meant for the model.

    That is a misspelt option of ours (`known`) that the model does not name, or one that the model does not take.
    """
    parameters = _parameters(model)
    names = {name for name, p in parameters.items() if p.kind is not inspect.Parameter.POSITIONAL_ONLY}
    takes_any = not names or any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    for name in given:
        if name in names:
            continue
        option = meant(name, known)
        if option is not None:
            hint = f"did you mean {option}?" if option != name else "it is one of fastdiff.sample."
            raise TypeError(
                f"{name}: not an option here, and the model's signature does not name it; {hint} A model that takes"
                f" {name} among its **kwargs gets it by functools.partial(model, {name}=...)"
            )
        if not takes_any:
            near = meant(name, tuple(names))
            hint = f"; did you mean {near}?" if near else f", which takes {', '.join(parameters)}"
            raise TypeError(f"{name}: neither an option here nor an argument of the model{hint}")


def _parameters(model: Callable) -> Mapping[str, inspect.Parameter]:
    """The parameters that a model names; none where Python cannot tell. A module's are its forward's."""
    if getattr(model, "_forward_pre_hooks_with_kwargs", None):
        return {}  # a hook of a torch module may take keywords out before forward sees them
    try:
        return inspect.signature(getattr(model, "forward", model)).parameters
    except (TypeError, ValueError):
        return {}
