"""The last graph captured for each module, for `sample(..., graph=True)`."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from ...plans.plan import Plan
from ..correction import is_corrected
from ..guided import plain_scale
from ..model import Model, is_guided
from ..rule import Guidance
from .captured import capture

_kept: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()


def sample_captured(
    model: Model,
    plan: Plan,
    noise: Tensor,
    seeds: Sequence[int] | Tensor | None,
    image: Tensor | None,
    options: dict[str, Any],
) -> Tensor:
    """`sample(..., graph=True)`: the model's last graph if it fits the call, a new one otherwise.

    options: those of `capture` and the model's keyword arguments.
    """
    named = {name: options[name] for name in CAPTURED}
    arguments = {name: value for name, value in options.items() if name not in named}
    key = _signature(model, plan, noise, named, arguments)
    found = _kept.get(model) if _weak(model) else None
    if found is None or found[0] != key or not found[1].serves(plan):
        found = key, capture(model, plan, noise, **options)
        if _weak(model):
            _kept[model] = found
    changed = {"uncond": named["uncond"]}
    if not _keeps_scale(named):
        changed["guidance"] = named["guidance"]
    return found[1](noise, plan=plan, seeds=seeds, image=image, **changed, **arguments)


CAPTURED = (
    "guidance", "uncond", "guidance_mode", "clamp", "threshold", "threshold_limit", "model_dtype", "observation",
    "correction",
)  # fmt: skip
"""The options of `sample` that `capture` has, too."""


def _keeps_scale(named: dict) -> bool:
    """Whether the graph keeps the scale of guidance as a number, and the observation: where D is corrected."""
    return is_corrected(named["observation"], named["correction"])


def _weak(model: Model) -> bool:
    return isinstance(model, torch.nn.Module)


def _signature(model: Model, plan: Plan, noise: Tensor, named: dict, arguments: dict) -> tuple:
    """What a graph has captured and cannot change: shapes, addresses of weights, options and plain arguments."""
    guidance = named.get("guidance")
    guided: bool | int = is_guided(guidance)
    if isinstance(guidance, Guidance) and plain_scale(plan, guidance) is None:
        guided = id(guidance)  # the graph keeps it, so the number is of no other
    fixed: tuple[object, ...] = tuple(repr(named.get(name)) for name in CAPTURED[2:7])
    if _keeps_scale(named):
        correction = named["correction"]
        kept = correction if isinstance(correction, str) else id(correction)
        fixed += repr(guidance), id(named["observation"]), kept
    leaves, layout = pytree.tree_flatten((arguments, named.get("uncond")))
    described = tuple((tuple(v.shape), v.dtype, v.device) if isinstance(v, Tensor) else repr(v) for v in leaves)
    weights: tuple[int, ...] = ()
    if isinstance(model, torch.nn.Module):
        weights = tuple(w.data_ptr() for w in [*model.parameters(), *model.buffers()])
    like = tuple(noise.shape), noise.dtype, noise.device
    return like, guided, fixed, described, str(layout), weights, getattr(model, "training", None)
