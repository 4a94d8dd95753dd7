"""Classifier-free guidance (Ho & Salimans 2022): how the model is called for both of its outputs."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ..ops import checks

Model = Callable[..., Tensor]


def is_guided(guidance: float | Tensor | None) -> bool:
    """Whether an unconditional evaluation is needed at all; a scale of exactly 1 needs none."""
    return guidance is not None and (isinstance(guidance, Tensor) or guidance != 1)


def check_guidance(guidance: float | Tensor | None, uncond: object, guidance_mode: str, batch: int) -> None:
    """Raises ValueError naming the argument."""
    if guidance_mode not in ("batch", "calls"):
        raise ValueError(f"guidance_mode: expected 'batch' or 'calls', got {guidance_mode!r}")
    if is_guided(guidance) and uncond is None:
        raise ValueError("uncond: guidance needs the unconditional evaluation's keyword arguments, got None")
    if isinstance(guidance, Tensor):
        checks.require_shape("guidance", guidance, (batch,))
    elif guidance is not None and not math.isfinite(guidance):
        raise ValueError(f"guidance: expected a finite number, got {guidance}")


def input_copies(guidance: float | Tensor | None, guidance_mode: str) -> int:
    """How many times over the model's input holds x."""
    return 2 if is_guided(guidance) and guidance_mode == "batch" else 1


def kwargs_per_call(
    guidance: float | Tensor | None,
    uncond: dict[str, object] | None,
    guidance_mode: str,
    kwargs: dict[str, object],
    batch: int,
) -> tuple[dict[str, object], ...]:
    """The keyword arguments of each call of the model in one evaluation, the unconditional one first.

    One call without guidance; with it, one on [unconditional; conditional] inputs ("batch"), or two ("calls").
    """
    if not is_guided(guidance):
        return (kwargs,)
    other = {**kwargs, **uncond}
    if guidance_mode == "calls":
        return other, kwargs
    return ({name: _double(name, kwargs.get(name), other[name], batch) for name in other},)


def evaluator(
    model: Model, noise: Tensor, calls: tuple[dict[str, object], ...], copies: int
) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor | None]]:
    """The function (model input, t) -> (m, m_uncond) of a run: m_uncond is None where there is no guidance.

    calls: from `kwargs_per_call`. copies: how many times over the input holds x; 2 for guidance in one batch.
    """
    shape, batch = tuple(noise.shape), len(noise)

    def plain(x: Tensor, t: Tensor) -> tuple[Tensor, None]:
        return _output(model(x, t, **calls[0]), shape), None

    def twice(x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        # The unconditional output is kept while the model runs again: a model may reuse its output buffer.
        m_uncond = _output(model(x, t, **calls[0]), shape).clone()
        return _output(model(x, t, **calls[1]), shape), m_uncond

    def together(x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        both = _output(model(x, t, **calls[0]), (2 * batch, *shape[1:]))
        return both[batch:], both[:batch]

    if len(calls) == 2:
        return twice
    return together if copies == 2 else plain


def _double(name: str, cond: object, uncond: object, batch: int) -> object:
    """One keyword argument for [unconditional; conditional]."""
    if isinstance(cond, Tensor) and isinstance(uncond, Tensor) and cond.ndim and cond.shape[0] == batch:
        return torch.cat([uncond.expand(cond.shape), cond])
    if cond is uncond or (not isinstance(cond, Tensor) and not isinstance(uncond, Tensor) and cond == uncond):
        return cond
    raise ValueError(
        f"uncond: {name} differs between the two evaluations and is not a pair of tensors with the batch of {batch}"
        " first; use guidance_mode='calls'"
    )


def _output(m: object, shape: tuple[int, ...]) -> Tensor:
    """The tensor that the model returned: itself, alone in a tuple, or as an object's `sample`, as diffusers' do."""
    if not isinstance(m, Tensor):
        m = _unwrapped(m)
    if m.shape != shape:
        raise ValueError(f"model: expected an output of shape {shape}, got {tuple(m.shape)}{_remedy(m, shape)}")
    return m


def _unwrapped(m: object) -> Tensor:
    inner = m[0] if isinstance(m, tuple) and len(m) == 1 else getattr(m, "sample", None)
    if isinstance(inner, Tensor):
        return inner
    found = f"a tuple of {len(m)}" if isinstance(m, tuple) else type(m).__name__
    raise TypeError(
        f"model: expected it to return a torch.Tensor, or one as `.sample` or alone in a tuple, got {found}; pass a"
        " function that returns the prediction alone, such as lambda x, t, **kwargs: model(x, t, **kwargs)[0]"
    )


def _remedy(m: Tensor, shape: tuple[int, ...]) -> str:
    if m.ndim and len(m) * 2 == shape[0]:
        return "; guidance in one batch needs an output for both halves"
    if len(shape) > 1 and m.shape == (shape[0], 2 * shape[1], *shape[2:]):
        # Nothing says which half is the prediction; a wrong width would look the same.
        return (
            "; if the second half of the channels is a learned variance, which no plan uses, pass"
            f" lambda x, t, **kwargs: model(x, t, **kwargs)[:, :{shape[1]}]"
        )
    return ""
