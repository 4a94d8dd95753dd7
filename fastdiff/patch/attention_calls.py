"""The attentions that a network computes, as they are computed: whatever module, processor or op does it.

A network's attention modules project, normalise and turn their queries, keys and values in dozens of ways. All come to
softmax(q k^T scale) v, by PyTorch's function or by fastdiff's op. `Attentions` lets a function stand there.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from .joint_order import JOINED, text_is_first
from .temporary import Wrapper, is_inside, named, uncompiled


class Core(NamedTuple):
    """softmax(q k^T scale + mask) v. q [B, H, N, D]; k, v [B, H, M, D]; mask as in PyTorch's function, or None."""

    q: Tensor
    k: Tensor
    v: Tensor
    mask: Tensor | None
    scale: float
    run: Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]

    def __call__(self) -> Tensor:
        """[B, H, N, D], by the op that the module has chosen."""
        return self.run(self.q, self.k, self.v, self.mask)


class Frame:
    """A module that is being called, and with what."""

    def __init__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.module, self.args, self.kwargs = module, args, kwargs

    @functools.cached_property
    def arguments(self) -> dict[str, Any]:
        """By the names of the forward of the module's class, in its order."""
        signature = _signature(type(self.module))
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


Change = Callable[[Core, Tokens], Tensor | None]
"""What stands in place of an attention; None leaves it as it is."""


@dataclass
class Attentions:
    """Wrappers that put `change` in place of what some attention modules of a network compute.

    network: the whole. modules: the attentions, by name in the network. kinds: of `Tokens`, those that are changed.
    changed: how many calls were, so far.
    """

    network: nn.Module
    modules: Mapping[str, nn.Module]
    kinds: frozenset[str]
    change: Change
    changed: int = 0
    _frames: list[Frame] = field(default_factory=list)

    def wrappers(self) -> dict[nn.Module, Wrapper]:
        """For `temporary.forwards`."""
        found = uncompiled(self.network, self.modules)
        for name, module in named(self.network).items():
            if name in self.modules:
                found[module] = functools.partial(self._attend, name, module)
            elif any(is_inside(other, name) for other in self.modules):
                found[module] = functools.partial(self._enter, module)
        return found

    def _enter(self, module: nn.Module, forward: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        self._frames.append(Frame(module, args, kwargs))
        try:
            return forward(*args, **kwargs)
        finally:
            self._frames.pop()

    def _attend(self, name: str, module: nn.Module, forward: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        frames = (*self._frames, Frame(module, args, kwargs))
        with _Watched(lambda core: self._changed(name, core, frames)) as watched:
            out = forward(*args, **kwargs)
        own = "self" if frames[-1].context is None else "cross"
        if not watched.seen and (own in self.kinds or own == "cross"):
            raise RuntimeError(
                f"{name}: {_described(module)} computes its attention neither with PyTorch's"
                " scaled_dot_product_attention nor with fastdiff's op, where it could be changed"
            )
        return out

    def _changed(self, name: str, core: Core, frames: tuple[Frame, ...]) -> Tensor:
        tokens = _tokens(name, core, frames)
        out = self.change(core, tokens) if tokens.kind in self.kinds else None
        self.changed += out is not None
        return core() if out is None else out


def _tokens(name: str, core: Core, frames: tuple[Frame, ...]) -> Tokens:
    own, count = frames[-1], core.q.shape[-2]
    if core.k.shape[-2] != count:
        return Tokens("cross", slice(0, count), None, frames)
    if own.context is None:
        text = _text_before(frames)
        if 0 < text < count:
            return Tokens("joint", slice(text, count), slice(0, text), frames)
        return Tokens("self", slice(0, count), None, frames)
    assert own.first is not None
    image = own.first.shape[2:].numel() if own.first.ndim > 3 else own.first.shape[-2]
    if count == image:
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


def _described(module: nn.Module) -> str:
    processor = getattr(module, "processor", None)
    return type(module).__name__ + (f" with {type(processor).__name__}" if processor is not None else "")


class _Watched(TorchFunctionMode):
    """Calls of attention go to a function."""

    def __init__(self, attend: Callable[[Core], Tensor]) -> None:
        super().__init__()
        self.attend, self.seen = attend, 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            core = _pytorchs(*args, **kwargs)
        elif func is torch.ops.fastdiff.attention:
            core = _fastdiffs(*args)
        elif func is F.multi_head_attention_forward:
            with self:  # it calls the first
                return func(*args, **kwargs)
        else:
            return func(*args, **kwargs)
        self.seen += 1
        return self.attend(core)


def _pytorchs(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Core:
    if is_causal:
        raise RuntimeError("a causal attention has no tokens that could be perturbed alike")
    if enable_gqa:  # keys and values that several heads share
        shared = query.shape[-3] // key.shape[-3]
        key, value = (t.repeat_interleave(shared, dim=-3) for t in (key, value))
    factor = query.shape[-1] ** -0.5 if scale is None else scale
    attend = functools.partial(F.scaled_dot_product_attention, dropout_p=dropout_p, scale=scale)
    return Core(query, key, value, attn_mask, factor, attend)


def _fastdiffs(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Core:
    def run(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        assert mask is None
        return torch.ops.fastdiff.attention(q, k, v, scale)

    return Core(q, k, v, None, scale, run)
