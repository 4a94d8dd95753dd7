"""What the tokens of an attention are, from the calls of modules that it stands in."""

from __future__ import annotations

import functools
import inspect
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from .joint_order import JOINED, text_is_first


class Frame:
    """A module that is being called, and with what."""

    def __init__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.module, self.args, self.kwargs = module, args, kwargs

    @functools.cached_property
    def arguments(self) -> dict[str, Any]:
        """By the names of the forward of the module's class, in its order."""
        cls: Any = type(self.module)
        signature = _signature(cls)
        named = dict(signature.bind_partial(*self.args, **self.kwargs).arguments)
        for parameter in signature.parameters.values():
            if parameter.kind is parameter.VAR_KEYWORD:
                named |= named.pop(parameter.name, {})
        return named

    @property
    def first(self) -> Tensor | None:
        """The first tensor among the arguments: the tokens, or the feature map, that the module works on."""
        return next((a for a in self.arguments.values() if isinstance(a, Tensor)), None)

    @property
    def context(self) -> Any:
        """Further tokens that an attention is given: a text's, or whatever its keys come from. None for its own."""
        given = self.arguments
        context = next((given[name] for name in ("encoder_hidden_states", "context", "key") if name in given), None)
        return None if context is self.first else context


@functools.cache
def _signature(cls: Any) -> inspect.Signature:
    signature = inspect.signature(cls.forward)
    return signature.replace(parameters=list(signature.parameters.values())[1:])


@dataclass(frozen=True)
class Tokens:
    """What the tokens of an attention are. frames: the modules that are being called, the attention's own last.

    kind: "self", one sequence attends to itself; "joint", image and text tokens attend to both; "cross", the queries
    attend to something else. image, text: where their tokens are among the queries; text is None unless joint.
    """

    kind: str
    image: slice
    text: slice | None
    frames: tuple[Frame, ...]


def tokens_of(name: str, count: int, keys: int, frames: tuple[Frame, ...]) -> Tokens:
    """Of an attention with so many queries and keys. Raises RuntimeError for one that is not understood."""
    own = frames[-1]
    if own.context is None:
        text = _text_before(frames)
        if 0 < text < count:
            return Tokens("joint", slice(text, count), slice(0, text), frames)
        return Tokens("self", slice(0, count), None, frames)
    assert own.first is not None
    image = own.first.shape[2:].numel() if own.first.ndim > 3 else own.first.shape[-2]
    if count == image or count != keys:
        return Tokens("cross", slice(0, count), None, frames)
    if not isinstance(own.context, Tensor) or count != image + own.context.shape[-2]:
        raise RuntimeError(f"{name}: {count} queries are neither {image} tokens of an image nor those and a text's")
    if text_is_first(name, own.module):
        return Tokens("joint", slice(count - image, count), slice(0, count - image), frames)
    return Tokens("joint", slice(0, image), slice(image, count), frames)


def _text_before(frames: tuple[Frame, ...]) -> int:
    """How many tokens of a text stand before the image's in a block that is known to join the two; else 0."""
    if not any(type(frame.module).__name__ in JOINED for frame in frames):
        return 0
    contexts = [frame.arguments.get("encoder_hidden_states") for frame in reversed(frames)]
    return next((c.shape[1] for c in contexts if isinstance(c, Tensor) and c.ndim == 3), 0)
