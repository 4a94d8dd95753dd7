"""The constructors: diffusers' own, with `guidance_interval`."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any


def with_interval(init: Callable[..., None]) -> Callable[..., None]:
    """A guider's constructor that takes `guidance_interval` too and calls diffusers' own with keywords only.

    diffusers takes positional arguments for defaults when a configuration is copied (`new`, `from_config`), and loses
    them. The interval is in the configuration only where there is one, so that diffusers reads all others unchanged.
    """
    signature = inspect.signature(init)
    extra = inspect.Parameter("guidance_interval", inspect.Parameter.KEYWORD_ONLY, default=None)

    @functools.wraps(init)
    def construct(self: Any, *args: Any, guidance_interval: Sequence[float] | None = None, **options: Any) -> None:
        given = signature.bind(self, *args, **options).arguments
        init(**given)
        self.guidance_interval = _checked(guidance_interval)
        if self.guidance_interval is not None:
            self.register_to_config(guidance_interval=list(self.guidance_interval))

    construct.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=[*signature.parameters.values(), extra]
    )
    return construct


def _checked(interval: Sequence[float] | None) -> tuple[float, float] | None:
    """(low, high) as floats. Raises ValueError unless 0 <= low < high."""
    if interval is None:
        return None
    low, high = (float(level) for level in interval)
    if not 0 <= low < high:
        raise ValueError(
            f"guidance_interval: expected (low, high) of sigma / alpha with 0 <= low < high, got {interval!r}"
        )
    return low, high
