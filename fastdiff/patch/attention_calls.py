"""The attentions that a network computes, as they are computed: whatever module, processor or op does it.

A network's attention modules project, normalise and turn their queries, keys and values in dozens of ways. All come to
softmax(q k^T scale) v, by PyTorch's function or by fastdiff's op. `Attentions` lets a function stand there.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from .attention import is_plain, multihead
from .attention_tokens import Frame, Tokens, tokens_of
from .temporary import Wrapper, holders, named, uncompiled


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
        found, around = uncompiled(self.network, self.modules), holders(self.modules)
        for name, module in named(self.network).items():
            if name in self.modules:
                found[module] = functools.partial(self._attend, name, module)
            elif name in around:
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
        if isinstance(module, nn.MultiheadAttention):
            forward = functools.partial(_multihead, module, forward)
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
        tokens = tokens_of(name, core.q.shape[-2], core.k.shape[-2], frames)
        out = self.change(core, tokens) if tokens.kind in self.kinds else None
        self.changed += out is not None
        return core() if out is None else out


def _described(module: nn.Module) -> str:
    processor = getattr(module, "processor", None)
    return type(module).__name__ + (f" with {type(processor).__name__}" if processor is not None else "")


def _multihead(
    module: nn.MultiheadAttention,
    forward: Callable[..., Any],
    query: Tensor,
    key: Tensor,
    value: Tensor,
    key_padding_mask: Tensor | None = None,
    need_weights: bool = True,
    attn_mask: Tensor | None = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """PyTorch's module by an op that is seen: its own code is one function, or one kernel."""
    masked = key_padding_mask is not None or attn_mask is not None or is_causal
    if is_plain(module, query, masked, need_weights):
        return multihead(module, query, key, value), None
    return forward(query, key, value, key_padding_mask, need_weights, attn_mask, average_attn_weights, is_causal)


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
