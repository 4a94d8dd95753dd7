"""How a model of tokens is called, and what is read of its logits."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..ops import TokenStats, token_stats
from ..sampling.model import check_guidance, is_guided, joined

Time = str | Callable[[Tensor], Mapping[str, object]] | None
LEAST_ALPHA = 1e-3  # of a sigma = -ln(alpha) that is finite, as MDLM has it


class Draws(NamedTuple):
    """How tokens are drawn from logits: the arguments of `ops.token_stats` of their names."""

    seeds: Tensor
    temperature: float | Tensor
    top_k: int | None
    top_p: float | None
    exclude: tuple[int, ...]


class TokenCalls:
    """The calls of one run: model(tokens [B, ...], **kwargs) -> logits, on the window at hand.

    window: (start, stop) of the flat positions that logits are read of, in the block, which may be all that the model
    gives logits for; seen: how many it is given. evaluations: of the network for each sample so far. lawless: [B, K]
    rows of the window without a law in any call since it was None. vocabulary: V, once it was called.
    """

    def __init__(
        self,
        model: Callable,
        tokens: Tensor,
        given: Tensor,
        mask_id: int,
        draws: Draws,
        guidance: float | Tensor | None,
        uncond: Mapping[str, object] | str | None,
        guidance_mode: str,
        time: Time,
        shift: bool,
        kwargs: dict[str, object],
    ) -> None:
        check_guidance(guidance, uncond, guidance_mode, len(tokens))
        if isinstance(uncond, str) and uncond != "masked":
            raise ValueError(f"uncond: expected keyword arguments or 'masked', got {uncond!r}")
        self._model, self._shape, self._mask = model, tuple(tokens.shape), mask_id
        self._draws, self._time, self._shift = draws, time, shift
        self._given = given if uncond == "masked" else None
        self.guidance = guidance.to(torch.float64) if isinstance(guidance, Tensor) else guidance
        self.guided = is_guided(guidance)
        self._together = self.guided and guidance_mode == "batch"
        other = {**kwargs, **(uncond if isinstance(uncond, Mapping) else {})}
        self._arguments = [kwargs] if not self.guided else [other, kwargs]
        if self._together:
            self._arguments = [joined(self._arguments, len(tokens))]
        self.tokens = tokens.flatten(1)
        self.seen = self.tokens.shape[1]
        self.block = self.window = (0, self.seen)
        self.evaluations = 0
        self.lawless: Tensor | None = None
        self._vocabulary: int | None = None

    @property
    def vocabulary(self) -> int:
        if self._vocabulary is None:
            raise ValueError("vocabulary: expected it to be given for this rule, whose first tokens are any")
        return self._vocabulary

    @vocabulary.setter
    def vocabulary(self, size: int | None) -> None:
        self._vocabulary = size

    def stats(
        self, tokens: Tensor, index: int, alpha: Tensor, current_shift: Tensor | float | None = None
    ) -> TokenStats:
        """What the model says of the window's tokens [B, K], and draws for them."""
        logits, uncond = self.logits(tokens, alpha)
        draws = self._draws
        found = token_stats(
            logits, tokens if current_shift is not None else None, seeds=draws.seeds, index=index,
            positions=self._positions(tokens), temperature=draws.temperature, top_k=draws.top_k, top_p=draws.top_p,
            logits_uncond=uncond, guidance=None if uncond is None else self.guidance, current_shift=current_shift,
            exclude=self._excluded(),
        )  # fmt: skip
        self._note(found.max_prob.isnan())
        return found

    def log_law(self, tokens: Tensor, alpha: Tensor) -> Tensor:
        """ln of the law that tokens are drawn from, [B, K, V] float32, float64 if the logits are."""
        logits, uncond = self.logits(tokens, alpha)
        z = logits.to(torch.promote_types(logits.dtype, torch.float32))
        if uncond is not None:
            g = torch.as_tensor(self.guidance, dtype=z.dtype).to(z.device, non_blocking=True)
            allowed = (z != -math.inf) & (uncond != -math.inf)
            z = torch.where(allowed, uncond + g.view(-1, 1, 1) * (z - uncond), -math.inf)
        for token in self._excluded():
            z[..., token] = -math.inf
        t = self._draws.temperature
        t = t if isinstance(t, Tensor) else torch.full_like(alpha, t)
        z = z - z.amax(-1, keepdim=True)
        law = (z / t.to(z.dtype).view(-1, 1, 1).clamp(min=1e-30)).log_softmax(-1)
        self._note(law.isnan().any(-1))
        return law

    def draw(self, log_weights: Tensor, index: int) -> Tensor:
        """[B, K] tokens from weights [B, K, V] given by their logarithms."""
        positions = self._positions(log_weights[..., 0])
        seeds = self._draws.seeds
        return token_stats(log_weights, seeds=seeds, index=index, positions=positions, temperature=1.0).sample

    def logits(self, tokens: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor | None]:
        """The window's logits [B, K, V] where it has these tokens, and the unconditional ones. alpha: [B] float64."""
        start, stop = self.window
        x = self.tokens.clone()
        x[:, start:stop] = tokens
        self.evaluations += 2 if self.guided else 1
        other = x if self._given is None else x.masked_fill(self._given, self._mask)
        if self._together:
            both = self._call(torch.cat([other, x]), alpha.repeat(2), self._arguments[0])
            return both[len(x) :], both[: len(x)]
        uncond = self._call(other, alpha, self._arguments[0]).clone() if self.guided else None
        return self._call(x, alpha, self._arguments[-1]), uncond

    def _call(self, x: Tensor, alpha: Tensor, arguments: Mapping[str, object]) -> Tensor:
        if self.seen < x.shape[1]:
            x = x[:, : self.seen]
        elif len(self._shape) > 2:
            x = x.view(-1, *self._shape[1:])
        output = self._model(x, **arguments, **self._times(alpha))
        return self._windowed(logits_of(output), x)

    def _times(self, alpha: Tensor) -> Mapping[str, object]:
        if self._time is None:
            return {}
        if callable(self._time):
            return self._time(alpha)
        if self._time == "t":
            return {"t": (1 - alpha).float()}
        return {"sigma": -alpha.clamp(min=LEAST_ALPHA).log().float()}

    def _windowed(self, logits: Tensor, x: Tensor) -> Tensor:
        """Of logits for all that the model was given, or for the block alone."""
        start, stop = self.window
        first, last = self.block
        if not self._shift and logits.shape[:-1] == (len(x), last - first) != x.shape:
            start, stop = start - first, stop - first
        elif logits.shape[:-1] != x.shape:
            expected = ", ".join(map(str, (*x.shape, "V")))
            raise ValueError(f"model: expected logits of shape ({expected}), got {tuple(logits.shape)}")
        if self._vocabulary is not None and logits.shape[-1] != self._vocabulary:
            raise ValueError(f"model: expected logits of {self._vocabulary} tokens, got {logits.shape[-1]}")
        self._vocabulary = logits.shape[-1]
        logits = logits.flatten(1, -2)
        if not self._shift:
            return logits[:, start:stop]
        if start:
            return logits[:, start - 1 : stop - 1]
        return torch.cat([logits[:, :1], logits[:, : stop - 1]], 1)

    def _positions(self, tokens: Tensor) -> Tensor:
        """[B, K] of the window in the whole."""
        return torch.arange(*self.window, device=tokens.device).expand(tokens.shape)

    def _note(self, lawless: Tensor) -> None:
        self.lawless = lawless if self.lawless is None else self.lawless | lawless

    def _excluded(self) -> tuple[int, ...]:
        size = self._vocabulary or 0
        for token in self._draws.exclude:
            if token >= size:
                raise ValueError(f"exclude: expected tokens in [0, {size}), got {token}")
        mask = (self._mask,) if self._mask < size and self._mask not in self._draws.exclude else ()
        return (*self._draws.exclude, *mask)


def logits_of(output: object) -> Tensor:
    """The logits that a model returned: as they are, in a tuple of one, or as an object's `logits` or `sample`."""
    if isinstance(output, tuple) and len(output) == 1:
        output = output[0]
    for name in ("logits", "sample"):
        if not isinstance(output, Tensor):
            output = getattr(output, name, output)
    if not isinstance(output, Tensor):
        raise TypeError(
            f"model: expected it to return logits, a torch.Tensor or an object with one as `.logits`, got"
            f" {type(output).__name__}"
        )
    return output


def check_draws(temperature: float | Tensor, exclude: Sequence[int], mask_id: int) -> None:
    """Raises TypeError or ValueError naming the argument."""
    if not isinstance(mask_id, int) or isinstance(mask_id, bool):
        raise TypeError(f"mask_id: expected a whole number, got {type(mask_id).__name__}")
    if not 0 <= mask_id < 2**63:
        raise ValueError(f"mask_id: expected a token's number >= 0, got {mask_id}")
    if not isinstance(temperature, Tensor) and not 0 <= temperature < math.inf:
        raise ValueError(f"temperature: expected a finite number >= 0, got {temperature}")
    if len(exclude) > 3:
        raise ValueError(f"exclude: expected at most 3 tokens beside the mask, got {len(exclude)}")
    for token in exclude:
        if not isinstance(token, int) or token < 0:
            raise ValueError(f"exclude: expected tokens' numbers >= 0, got {token!r}")
