"""token_stats: what samplers of discrete diffusion ask of a model's logits, from one reading of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .. import checks, registry
from ..reference_tokens import token_stats as formula
from ..torch_library import register

MAX_EXCLUDED = 4


class TokenStats(NamedTuple):
    """One entry a row of the logits, [B, ...]. Numbers are float32, float64 for float64 logits.

    p is the plain law of the row's tokens and q the one that the sample was drawn from, see `token_stats`.
    """

    argmax: Tensor  # int64, the token of the largest logit, of equal ones the first
    sample: Tensor  # int64, a draw from q
    log_prob: Tensor  # ln p(sample)
    max_prob: Tensor  # max p, the confidence
    margin: Tensor  # the largest less the second largest of p
    entropy: Tensor  # of p, in nats
    current_prob: Tensor | None  # p(current); None where no tokens were given
    drawn_log_prob: Tensor  # ln q(sample)
    drawn_entropy: Tensor  # of q, in nats


def token_stats(
    logits: Tensor,
    current: Tensor | None = None,
    *,
    seeds: Tensor | None = None,
    index: int | Tensor = 0,
    positions: Tensor | None = None,
    temperature: float | Tensor = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    logits_uncond: Tensor | None = None,
    guidance: float | Tensor | None = None,
    current_shift: float | Tensor | None = None,
    exclude: Sequence[int] = (),
) -> TokenStats:
    """A draw for each row of the logits, and how sure the model is of it, from one reading (two with top_k or top_p).

        z = z_u + g (z_c - z_u),  z[current] += shift,  z[exclude] = -inf,  p = softmax(z),
        q = p at temperature 0's limit, or softmax(z / temperature) over the top_k largest, and of those the top_p.

    logits: [B, ..., V], z_c; float32, float64, float16 or bfloat16, any strides.
    current: [B, ...] int64, the tokens that stand there now; one outside of [0, V) has no probability.
    seeds: [B] int64, each sample's own; needed unless temperature is the number 0.
    index: which draw of the run this is, in [0, 2^32): a number or [B] int64.
    positions: [B, ...] int64, each row's place in its sample; 0, 1, ... where not given. A row's random number is that
        of its seed, index and position alone, so that a part of a sequence draws what it does in the whole.
    temperature: >= 0, a number or [B] float64. At 0 q is all at the argmax.
    top_k: only the tokens whose logit is at least the top_k-th largest are drawn, with all that are equal to it.
    top_p: in (0, 1], only the fewest largest tokens whose mass in q reaches it are drawn; of equal ones the first.
    logits_uncond, guidance: z_u like logits, and g, a number or [B] float64. A token that z_c or z_u forbids by -inf is
        forbidden.
    current_shift: a number or [B] float64, added to the current token's logit: -ln(1 + V alpha / (1 - alpha)) makes the
        denoiser of a uniform process leave that token out (arXiv:2605.22765, eq. 13), -inf forbids it.
    exclude: up to 4 tokens that are neither counted nor drawn, such as the mask.

    q serves what draws at a temperature and ranks by its own law (BlockRefinementScheduler's and Dream's probability,
    EntropyBoundScheduler's entropy), p what ranks by the model's (LLaDA, DiscreteDDIMScheduler, Fast-dLLM).
    The draw is by inversion: the first token at which the sum of q exceeds a number of (0, 1) with 53 bits
    (`fastdiff.ops.philox.uniform_rows`), so that the tail has its mass whatever the vocabulary. Logits are taken in
    float32, float64 if they are, and sums in float64 over short stretches; a row's result does not depend on the batch.
    A row with a NaN or +inf, or without any token allowed, has the tokens 0 and the numbers NaN.
    Differentiable in the logits, through the numbers. Raises TypeError or ValueError naming the argument.

    >>> stats = token_stats(torch.randn(2, 8, 1000), seeds=torch.tensor([3, 4]), temperature=0.7)
    >>> stats.sample.shape, stats.entropy.shape
    (torch.Size([2, 8]), torch.Size([2, 8]))
    """
    _check_rows(logits, current, positions, logits_uncond)
    if seeds is None and (isinstance(temperature, Tensor) or temperature != 0):
        raise ValueError("seeds: expected one seed a sample, [B] int64, because the temperature is not 0; got None")
    if (guidance is None) != (logits_uncond is None):
        raise ValueError("guidance: expected it together with logits_uncond, got one of them")
    if current_shift is not None and current is None:
        raise ValueError("current_shift: expected current beside it, got none")
    _check_filters(top_k, top_p, exclude, logits.shape[-1])
    if seeds is not None:
        checks.require_shape("seeds", seeds, (len(logits),))
        checks.require_dtype("seeds", seeds, torch.int64)
        checks.require_device("seeds", seeds, logits)
    numbers, tokens = _call(
        logits, logits_uncond, current, positions, seeds, _index(index, logits),
        None if seeds is None else _numbers("temperature", temperature, logits, least=0),
        _numbers("guidance", guidance, logits), _numbers("current_shift", current_shift, logits, limit=math.inf),
        top_k or 0, 1.0 if top_p is None else float(top_p), list(exclude) or None,
    )  # fmt: skip
    argmax, sample = tokens.unbind()
    log_prob, max_prob, margin, entropy, current_prob, drawn_log_prob, drawn_entropy = numbers.unbind()
    known = None if current is None else current_prob
    return TokenStats(argmax, sample, log_prob, max_prob, margin, entropy, known, drawn_log_prob, drawn_entropy)


def _check_rows(logits: Tensor, current: Tensor | None, positions: Tensor | None, uncond: Tensor | None) -> None:
    checks.require_float("logits", logits)
    if logits.ndim < 2 or logits.shape[-1] == 0:
        raise ValueError(f"logits: expected shape [B, ..., V] with V >= 1, got {tuple(logits.shape)}")
    for name, tensor in (("current", current), ("positions", positions)):
        if tensor is not None:
            checks.require_shape(name, tensor, logits.shape[:-1])
            checks.require_dtype(name, tensor, torch.int64)
            checks.require_device(name, tensor, logits)
    if uncond is not None:
        checks.require_shape("logits_uncond", uncond, logits.shape)
        checks.require_dtype("logits_uncond", uncond, logits.dtype)
        checks.require_device("logits_uncond", uncond, logits)


def _check_filters(top_k: int | None, top_p: float | None, exclude: Sequence[int], vocabulary: int) -> None:
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k: expected None or a number >= 1, got {top_k}")
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"top_p: expected None or a number in (0, 1], got {top_p}")
    if len(exclude) > MAX_EXCLUDED:
        raise ValueError(f"exclude: expected at most {MAX_EXCLUDED} tokens, got {len(exclude)}")
    for token in exclude:
        if not 0 <= token < vocabulary:
            raise ValueError(f"exclude: expected tokens in [0, {vocabulary}), got {token}")


def _numbers(
    name: str, value: float | Tensor | None, like: Tensor, least: float = -math.inf, limit: float = 1e300
) -> Tensor | None:
    """[B] float64. A tensor's values are not looked at."""
    if isinstance(value, Tensor):
        checks.require_shape(name, value, (len(like),))
        checks.require_dtype(name, value, torch.float64)
        checks.require_device(name, value, like)
        return value
    if value is None:
        return None
    if not least <= value or not abs(value) <= limit:
        expected = "a finite number" + (f" >= {least:g}" if math.isfinite(least) else "")
        raise ValueError(f"{name}: expected {expected}, got {value}")
    return torch.full((len(like),), float(value), dtype=torch.float64, device=like.device)


def _index(index: int | Tensor, like: Tensor) -> Tensor | None:
    """[B] int64, None for 0."""
    if isinstance(index, Tensor):
        checks.require_shape("index", index, (len(like),))
        checks.require_dtype("index", index, torch.int64)
        checks.require_device("index", index, like)
        return index
    if not 0 <= index < 2**32:
        raise ValueError(f"index: expected a number in [0, 2^32), got {index}")
    return torch.full((len(like),), index, dtype=torch.int64, device=like.device) if index else None


Outputs = tuple[Tensor, Tensor]  # [7, B, ...] and [2, B, ...] int64, the fields of TokenStats in their order


def _run(logits: Tensor, *rest: object) -> Outputs:
    outputs = _meta(logits, *rest)
    if outputs[0].numel():
        run = registry.choose("token_stats", registry.CallSpec(logits.device.type, logits.dtype, tuple(logits.shape)))
        run(logits, *rest, *outputs)
    return outputs


def _meta(logits: Tensor, *rest: object) -> Outputs:
    rows = logits.shape[:-1]
    dtype = logits.dtype if logits.dtype == torch.float64 else torch.float32
    return logits.new_empty((7, *rows), dtype=dtype), logits.new_empty((2, *rows), dtype=torch.int64)


_call = register(
    "token_stats(Tensor logits, Tensor? logits_uncond, Tensor? current, Tensor? positions, Tensor? seeds,"
    " Tensor? index, Tensor? temperature, Tensor? guidance, Tensor? current_shift, int top_k, float top_p,"
    " int[]? exclude) -> (Tensor, Tensor)",
    _run,
    _meta,
    formula,
)
