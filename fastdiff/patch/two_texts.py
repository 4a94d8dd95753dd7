"""Networks that are given two texts: the tokens of one after the other's, and a function of the attention to either."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from .attention_calls import Attentions, Core
from .attention_tokens import Frame, Tokens
from .perturb.layers import attentions_of
from .temporary import Wrapper, named

CROSS = {
    "LTXVideoTransformer3DModel",
    "PixArtTransformer2DModel",
    "SanaTransformer2DModel",
    "UNet2DConditionModel",
    "WanTransformer3DModel",
}
JOINT = {"FluxTransformer2DModel", "SD3Transformer2DModel"}
"""Networks of diffusers that treat each token of a text by itself, but in these attentions."""


def networks_of(model: Any) -> list[nn.Module]:
    """Those whose way with a text is known; a pipeline may have two."""
    parts = [model] if isinstance(model, nn.Module) else list(getattr(model, "components", {}).values())
    modules = [part for part in parts if isinstance(part, nn.Module)]
    found = [m for m in modules if type(named(m)[""]).__name__ in CROSS | JOINT]
    if not found:
        seen = ", ".join(type(named(m)[""]).__name__ for m in modules) or type(model).__name__
        raise ValueError(f"model: it is known how {', '.join(sorted(CROSS | JOINT))} treat a text, not how {seen} does")
    for network in found:
        _refuse_mixed_tokens(network)
    return found


def _refuse_mixed_tokens(network: Any) -> None:
    """Raises ValueError for a network that makes one vector of all tokens, or counts them from the end."""
    config = network.config
    mixed = (config.get("addition_embed_type") or "").startswith("text") and config.addition_embed_type != "text_time"
    if mixed or config.get("encoder_hid_dim_type") not in (None, "text_proj") or config.get("added_kv_proj_dim"):
        raise ValueError("model: a network that is also given an image, or pools its text, cannot be given two texts")


class TwoTexts:
    """One network with the prompt's tokens and the negative prompt's in one sequence."""

    def __init__(
        self, network: nn.Module, negative: Tensor, mask: Tensor | None, combine: Callable[[Tensor, Tensor], Tensor]
    ) -> None:
        self._negative, self._mask, self._combine = negative, mask, combine
        self._root = named(network)[""]
        kinds = frozenset({"cross", "joint"})
        self._attentions = Attentions(network, attentions_of(network), kinds, self._change)
        self._prompt = 0  # its tokens

    def wrappers(self) -> dict[nn.Module, Wrapper]:
        """For `temporary.forwards`."""
        found = self._attentions.wrappers()
        return found | {self._root: functools.partial(self._call, found[self._root])}

    def _call(self, enter: Wrapper, forward: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        before = self._attentions.changed
        out = enter(forward, **self._extended(Frame(self._root, args, kwargs).arguments))
        if self._attentions.changed == before:
            raise RuntimeError(f"model: {type(self._root).__name__} has computed no attention to a text")
        return out

    def _extended(self, given: dict[str, Any]) -> dict[str, Any]:
        """The network's arguments with the negative prompt's tokens after the prompt's."""
        prompt = given.get("encoder_hidden_states")
        if not isinstance(prompt, Tensor) or prompt.ndim != 3:
            raise ValueError("encoder_hidden_states: expected the embedding of a prompt, [B, tokens, C]")
        batch, self._prompt, width = prompt.shape
        negative, count = self._negative, self._negative.shape[1]
        if negative.shape[0] not in (1, batch) or negative.shape[2] != width:
            raise ValueError(f"negative: expected shape (1 or {batch}, tokens, {width}), got {tuple(negative.shape)}")
        both = torch.cat([prompt, negative.to(prompt).expand(batch, -1, -1)], dim=1)
        more: dict[str, Any] = {"encoder_hidden_states": both}
        mask = given.get("encoder_attention_mask")
        if mask is not None or self._mask is not None:
            more["encoder_attention_mask"] = self._masks(mask, prompt, count)
        if isinstance(ids := given.get("txt_ids"), Tensor):
            more["txt_ids"] = _positions(ids, count)
        return given | more

    def _masks(self, mask: Tensor | None, prompt: Tensor, count: int) -> Tensor:
        if type(self._root).__name__ in JOINT:
            raise ValueError(f"mask: {type(self._root).__name__} takes none; leave out the tokens that do not count")
        if mask is None:
            mask = prompt.new_ones(prompt.shape[:2])
        if mask.ndim != 2:
            raise ValueError(f"encoder_attention_mask: expected [B, tokens], got shape {tuple(mask.shape)}")
        ours = mask.new_ones(1, count) if self._mask is None else self._mask.to(mask)
        return torch.cat([mask, ours.expand(len(mask), -1)], dim=1)

    def _change(self, core: Core, tokens: Tokens) -> Tensor | None:
        if tokens.text is not None:
            return self._joint(core, tokens.image, tokens.text)
        if core.k.shape[-2] != self._prompt + self._negative.shape[1]:
            return None  # to something else than the text
        first, rest = slice(0, self._prompt), slice(self._prompt, None)
        return self._combine(_attended(core, [first]), _attended(core, [rest]))

    def _joint(self, core: Core, image: slice, text: slice) -> Tensor:
        """Each text with the image, the image with either."""
        start, middle, stop = text.start, text.start + self._prompt, text.stop
        outputs = []
        for part in (slice(start, middle), slice(middle, stop)):
            spans = [part, image] if text.start == 0 else [image, part]
            out = _attended(core, spans, queries=True)
            outputs.append(out.split([s.stop - s.start for s in spans], dim=-2))
        (a, b), (c, d) = outputs
        return torch.cat([a, c, self._combine(b, d)] if text.start == 0 else [self._combine(a, c), b, d], dim=-2)


def _attended(core: Core, spans: list[slice], queries: bool = False) -> Tensor:
    """The attention to the keys in these spans, of all queries or of those in the spans."""
    k, v = (torch.cat([t[..., s, :] for s in spans], dim=-2) for t in (core.k, core.v))
    q = torch.cat([core.q[..., s, :] for s in spans], dim=-2) if queries else core.q
    mask = core.mask
    if mask is not None:
        mask = torch.cat([mask[..., s] for s in spans], dim=-1)
        if queries and mask.shape[-2] > 1:
            mask = torch.cat([mask[..., s, :] for s in spans], dim=-2)
    return core.run(q, k, v, mask)


def _positions(ids: Tensor, count: int) -> Tensor:
    """Those of the prompt's tokens, and as many again from their beginning as the negative prompt has."""
    if count > ids.shape[-2]:
        raise ValueError(f"negative: expected at most the prompt's {ids.shape[-2]} tokens, got {count}")
    return torch.cat([ids, ids[..., :count, :]], dim=-2)
