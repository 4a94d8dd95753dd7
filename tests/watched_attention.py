"""Attention written out, in the place of PyTorch's, in some modules of a network; and networks as models of (x, t)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from patch_models import Model
from torch import Tensor, nn

Attend = Callable[[Tensor, Tensor, Tensor, "Tensor | None"], Tensor]


def softmax_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """softmax(q k^T / sqrt(D) + mask) v."""
    logits = q @ k.mT / math.sqrt(q.shape[-1])
    if mask is not None:
        logits = logits.masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else logits + mask
    return logits.softmax(-1) @ v


@contextmanager
def attention_in(modules: Iterable[nn.Module], attend: Attend) -> Iterator[None]:
    """attend(q, k, v, mask) in these modules, softmax_attention elsewhere, where diffusers calls PyTorch's function."""
    before, inside, hooks = nn.functional.scaled_dot_product_attention, [], []

    def called(query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False):
        assert scale is None
        return (attend if inside else softmax_attention)(query, key, value, attn_mask)

    for module in modules:
        hooks.append(module.register_forward_pre_hook(lambda *_: inside.append(1)))
        hooks.append(module.register_forward_hook(lambda *_: inside.clear()))
    nn.functional.scaled_dot_product_attention = called
    try:
        yield
    finally:
        nn.functional.scaled_dot_product_attention = before
        for hook in hooks:
            hook.remove()


def call_of(model: Model) -> Callable[..., Tensor]:
    """call(x, t): the network in place of x and its own arguments; without a learned variance."""

    @torch.no_grad()
    def call(x: Tensor, t: object) -> Tensor:
        out = model.module(x, *model.arguments[1:], **model.named)
        out = out[0] if isinstance(out, tuple) else getattr(out, "sample", out)
        return out[:, : x.shape[1]]

    return call


def output_of(model: Model) -> Tensor:
    return call_of(model)(model.arguments[0], 0.5)


def perturbed(model: Model, perturbation: Callable[..., Callable], *arguments: object, **options: object) -> Tensor:
    """What the perturbed network makes of the model's arguments."""
    return perturbation(call_of(model), *arguments, network=model.module, **options)(model.arguments[0], 0.5)


def double(model: Model) -> Model:
    """The same in float64."""

    def cast(value: object) -> object:
        if isinstance(value, dict):
            return {name: cast(v) for name, v in value.items()}
        return value.double() if isinstance(value, Tensor) and value.is_floating_point() else value

    return Model(model.module.double(), *map(cast, model.arguments), **cast(model.named))


def with_latent(model: Model, rows: int, columns: int) -> Model:
    x = model.arguments[0]
    return Model(model.module, torch.randn(*x.shape[:2], rows, columns), *model.arguments[1:], **model.named)
