"""Networks that are not called as model(x, t), or that return a learned variance beside the prediction.

Those of diffusers: many transformers have the time behind the prompt, and some predict 2 C channels for C.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping

from torch import Tensor, nn

TIMES = ("timestep", "timesteps")


def as_model(model: Callable) -> Callable:
    """model(x, t, **kwargs) -> the prediction, of a module that takes its time by name or learns a variance.

    Anything else as it is. Which half of the channels is the prediction is not guessed from the output's shape: the
    module's configuration has out_channels twice in_channels, or its `learn_sigma` is true, and the first half is it.
    """
    if not isinstance(model, nn.Module):
        return model
    network = model._modules.get("_orig_mod") or model  # what torch.compile has wrapped
    name, learned = _name_of_time(type(network).forward), _learns_variance(network)
    if name is None and not learned:
        return model

    def call(x: Tensor, t: Tensor, **kwargs: object) -> object:
        m = model(x, t, **kwargs) if name is None else model(x, **{name: t}, **kwargs)
        return _first_half(m, x) if learned else m

    return call


@functools.cache
def _name_of_time(forward: Callable) -> str | None:
    """The parameter that is the time, where it comes after the second one; the first two follow self."""
    try:
        second, *later = list(inspect.signature(forward).parameters)[2:]
    except (TypeError, ValueError):  # no signature, or no second parameter
        return None
    return None if second in TIMES else next((name for name in later if name in TIMES), None)


def _learns_variance(network: nn.Module) -> bool:
    config = getattr(network, "config", None)
    if isinstance(config, Mapping) and isinstance(config.get("in_channels"), int):
        return config.get("out_channels") == 2 * config["in_channels"]
    return getattr(network, "learn_sigma", False) is True


def _first_half(m: object, x: Tensor) -> object:
    """The prediction's channels of the output, which may be alone in a tuple or an object's `sample`."""
    m = m[0] if isinstance(m, tuple) and len(m) == 1 else getattr(m, "sample", m)
    twice = isinstance(m, Tensor) and m.ndim > 1 and m.shape[1] == 2 * x.shape[1]
    return m[:, : x.shape[1]] if isinstance(m, Tensor) and twice else m
