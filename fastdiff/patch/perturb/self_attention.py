"""Perturbed self-attention: its map is the identity (PAG), or its queries are blurred (SEG)."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ..attention_calls import Attentions, Change, Core
from ..attention_tokens import Tokens
from ..temporary import forwards
from .grid import blurred, grid_of
from .layers import Layers, attentions
from .perturbed import Perturbed, network_of


def identity_attention(
    model: Callable[..., Any], layers: Layers = "mid_block", *, network: nn.Module | None = None
) -> Perturbed:
    """The model with the self-attention map of some layers replaced by the identity: softmax(q k^T) v becomes v.

    Perturbed-attention guidance (PAG, Ahn et al., 2403.17377) steers away from its output. Where image and text
    tokens attend to both (SD3, Flux), an image token keeps the text and itself, and no other image token; text tokens
    attend as ever. Attention to a text alone is left as it is.

    model: model(x, t, **kwargs), as for `fastdiff.sample`. layers: the names of modules, whose self-attentions are all
    meant; numbers of blocks; or a predicate (name, module) -> bool. The paper's is the U-Net's middle. network: the
    torch.nn.Module that the model calls, where the model is not one itself.
    Returns a call for `fastdiff.guidance.Terms`. Raises TypeError or ValueError naming the argument.

    >>> from diffusers import UNet2DConditionModel
    >>> identity_attention(UNet2DConditionModel(block_out_channels=(32, 32, 64, 64), cross_attention_dim=16))
    identity_attention(mid_block.attentions.0.transformer_blocks.0.attn1)
    """
    return _of_attentions(model, network, layers, "identity_attention", _identity)


def blurred_queries(
    model: Callable[..., Any],
    layers: Layers = "mid_block",
    sigma: float = math.inf,
    *,
    grid: tuple[int, int] | None = None,
    network: nn.Module | None = None,
) -> Perturbed:
    """The model with the queries of some layers' self-attention blurred over the image's rows and columns.

    Smoothed energy guidance (SEG, Hong, 2408.00760) steers away from its output. Blurred queries are blurred
    logits: G (q k^T) = (G q) k^T, with q as it is multiplied, after norms and rotary positions. Of tokens of image and
    text, the image's are blurred. Frames of a video are blurred one by one.

    sigma: of the Gaussian, in tokens, > 0; infinite: all queries are their mean, the paper's choice. grid: (rows,
    columns) of the image's tokens, where the network is not told the image's size, in any way that is known.
    model, layers, network, errors and the result as for `identity_attention`.
    """
    if not sigma > 0:
        raise ValueError(f"sigma: expected a number > 0 or math.inf, got {sigma}")
    if grid is not None and (len(grid) != 2 or not all(isinstance(n, int) and n > 0 for n in grid)):
        raise ValueError(f"grid: expected (rows, columns), whole numbers > 0, got {grid}")

    def change(core: Core, tokens: Tokens) -> Tensor:
        image = blurred(core.q[..., tokens.image, :], grid_of(tokens, grid), sigma)
        return core._replace(q=_in_order(image, core.q, tokens))()

    return _of_attentions(model, network, layers, "blurred_queries", change)


def _of_attentions(
    model: Callable[..., Any], network: nn.Module | None, layers: Layers, what: str, change: Change
) -> Perturbed:
    inside = network_of(model, network)
    modules = attentions(inside, layers)
    modules = {name: m for name, m in modules.items() if not getattr(m, "is_cross_attention", False)}
    if not modules:
        raise ValueError("layers: these attend to a text alone; no self-attention is among them")

    @contextlib.contextmanager
    def force(t: float) -> Iterator[None]:
        watched = Attentions(inside, modules, frozenset({"self", "joint"}), change)
        with forwards(watched.wrappers()):
            yield
        if not watched.changed:
            raise RuntimeError(f"{what}: no self-attention ran in {', '.join(modules)}")

    return Perturbed(model, what, modules, force)


def _identity(core: Core, tokens: Tokens) -> Tensor:
    if tokens.text is None:
        if core.v.shape[-2:] != core.q.shape[-2:]:
            raise RuntimeError(f"identity_attention: {core.q.shape[-2]} tokens attend to {core.v.shape[-2]} others")
        return core.v
    return _in_order(_own_and_text(core, tokens), _text(core, tokens), tokens)


def _own_and_text(core: Core, tokens: Tokens) -> Tensor:
    """The image's tokens, each of which attends to itself and to the text."""
    assert tokens.text is not None
    q, k, v = (t[..., tokens.image, :] for t in (core.q, core.k, core.v))
    text_k, text_v = (t[..., tokens.text, :] for t in (core.k, core.v))
    own = (q * k).sum(-1, keepdim=True) * core.scale
    logits = torch.cat([own, q @ text_k.mT * core.scale], dim=-1)
    if core.mask is not None:
        logits = logits + _bias(core.mask, logits.dtype, tokens, core.q.shape[-2])
    weights = logits.softmax(-1, dtype=torch.promote_types(q.dtype, torch.float32)).to(q.dtype)
    return weights[..., :1] * v + weights[..., 1:] @ text_v


def _bias(mask: Tensor, dtype: torch.dtype, tokens: Tokens, count: int) -> Tensor:
    """[..., N or 1, 1 + T]: what the mask adds to the logits of an image token with itself and with the text."""
    bias = torch.zeros_like(mask, dtype=dtype).masked_fill_(~mask, -math.inf) if mask.dtype == torch.bool else mask
    bias = bias.expand(*bias.shape[:-2], count, count)[..., tokens.image, :]
    own = bias[..., tokens.image].diagonal(dim1=-2, dim2=-1).unsqueeze(-1)
    return torch.cat([own, bias[..., tokens.text]], dim=-1)


def _text(core: Core, tokens: Tokens) -> Tensor:
    """The text's tokens, which attend to all."""
    mask = core.mask
    if mask is not None and mask.shape[-2] > 1:
        mask = mask[..., tokens.text, :]
    return core.run(core.q[..., tokens.text, :], core.k, core.v, mask)


def _in_order(image: Tensor, text: Tensor, tokens: Tokens) -> Tensor:
    """Image and text joined as they were. text: its tokens alone, or those of both."""
    if tokens.text is None:
        return image
    if text.shape[-2] != tokens.text.stop - tokens.text.start:
        text = text[..., tokens.text, :]
    return torch.cat([text, image] if tokens.text.start == 0 else [image, text], dim=-2)
