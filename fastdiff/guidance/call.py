"""Further calls that guidance makes."""

from __future__ import annotations

from collections.abc import Mapping

from ..sampling.rule import Call


def checked_call(name: str, call: object) -> Call:
    """The call. Raises ValueError where it is neither keyword arguments nor a function."""
    if not callable(call) and not (isinstance(call, Mapping) and call and all(isinstance(key, str) for key in call)):
        raise ValueError(
            f"{name}: expected a dictionary of the keyword arguments that are different in that call, or another"
            f" model(x, t, **kwargs), got {type(call).__name__} {call!r:.40}"
        )
    return call
