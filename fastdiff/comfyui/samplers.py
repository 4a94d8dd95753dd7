"""fastdiff's samplers as ComfyUI calls them, without a change to its tables."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable

from torch import Tensor

from ..kdiffusion.host import standing_in_for
from ..kdiffusion.registration import FUNCTIONS
from ..kdiffusion.steps import ON_SIGMA_RANGE, on_sigmas

Option = bool | int | float | str
NAMES = tuple(sorted(name.removeprefix("sample_") for name in FUNCTIONS))
_NOT_OPTIONS = ("return_info",)  # they change what is returned


def sampler_function(name: str) -> Callable[..., Tensor]:
    """fn(model, x, sigmas, extra_args, callback, disable, **options) that draws its noise as ComfyUI does.

    name: one of NAMES; ValueError for others.
    """
    full = f"sample_{_checked(name)}"
    function = on_sigmas(full) if full in ON_SIGMA_RANGE else FUNCTIONS[full]

    @functools.wraps(function)
    def sample(*args: object, **kwargs: object) -> Tensor:
        import comfy.k_diffusion.sampling as host

        with standing_in_for(host):
            return function(*args, **kwargs)

    return sample


def options_of(name: str) -> dict[str, Option]:
    """The options of a sampler with their defaults: numbers, names and switches."""
    taken = inspect.signature(FUNCTIONS[f"sample_{_checked(name)}"]).parameters.values()
    kinds = (bool, int, float, str)
    return {p.name: p.default for p in taken if isinstance(p.default, kinds) and p.name not in _NOT_OPTIONS}


def read_options(name: str, text: str) -> dict[str, Option]:
    """The options in a text such as "eta=0.5, solver_type=heun". Raises ValueError for what the sampler has not."""
    known, found = options_of(name), {}
    for part in filter(None, (part.strip() for part in text.replace("\n", ",").split(","))):
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or key not in known:
            has = ", ".join(f"{option}={default}" for option, default in known.items()) or "no options"
            raise ValueError(f"options: expected such as 'eta=0.5' of what {name} has, got {part!r}; it has {has}")
        found[key] = _read(key, value, known[key])
    return found


def _read(key: str, value: str, default: Option) -> Option:
    if isinstance(default, bool):
        if value.lower() not in ("true", "false"):
            raise ValueError(f"options: expected {key}=true or {key}=false, got {value!r}")
        return value.lower() == "true"
    try:
        return type(default)(value)
    except ValueError:
        kind = "a whole number" if isinstance(default, int) else "a number"
        raise ValueError(f"options: expected {kind} for {key}, got {value!r}") from None


def _checked(name: str) -> str:
    if name not in NAMES:
        raise ValueError(f"sampler_name: expected one of {', '.join(NAMES)}, got {name!r}")
    return name
