"""Classes that ask for attention by a function of PyTorch's or diffusers', on fastdiff's op."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Mapping
from typing import Any

from .attention_functions import PYTORCHS, scaled_dot_product_attention
from .fast import Fast, subclass
from .own_code import methods_calling


class CallsFastAttention(Fast):
    """A class that asks for attention by a function that fastdiff has its own of."""

    @staticmethod
    def fastdiff_methods(cls: Any) -> Mapping[str, Callable[..., Any]]:
        return methods_calling(cls, _replacements())


@functools.cache
def with_fast_attention(cls: Any) -> Any:
    """The class on fastdiff's functions; None for one that calls none of those they stand for, or does already."""
    if issubclass(cls, Fast) or not methods_calling(cls, _replacements()):
        return None
    return subclass(CallsFastAttention, cls)


def _replacements() -> dict[Callable[..., Any], Callable[..., Any]]:
    found: dict[Callable[..., Any], Callable[..., Any]] = {PYTORCHS: scaled_dot_product_attention}
    if "diffusers.models.attention_dispatch" in sys.modules:
        from . import diffusers_attention

        found[diffusers_attention.DISPATCH] = diffusers_attention.dispatch_attention_fn
    return found
