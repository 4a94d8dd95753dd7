"""sample and iter_sample: tokens from a model of masked or uniform diffusion."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..keywords import check_keywords, options_of
from ..ops import checks
from ..sampling.noise import seed_tensor
from .calls import Draws, Time, TokenCalls, check_draws
from .run import Run, Step
from .stopping import stop_of
from .token_plan import Plan


class Request(NamedTuple):
    """The arguments of `sample` that say what is drawn."""

    seeds: Sequence[int] | Tensor | None
    temperature: float | Tensor
    top_k: int | None
    top_p: float | None
    guidance: float | Tensor | None
    uncond: Mapping[str, object] | str | None
    guidance_mode: str
    exclude: Sequence[int]
    stop: int | Sequence[int] | None
    fill: int | None
    open: Tensor | None
    time: Time
    shift: bool
    block_start: int
    see_ahead: bool
    vocabulary: int | None

    @torch.no_grad()
    def begin(self, model: Callable, plan: Plan, tokens: Tensor, mask_id: int, kwargs: dict[str, Any]) -> Run:
        """Check every argument; return the run before its first step."""
        self._check(plan, tokens)
        check_draws(self.temperature, self.exclude, mask_id)
        check_keywords(model, kwargs, options_of(sample))
        seeds = torch.randint(2**62, (len(tokens),)) if self.seeds is None else self.seeds
        seeds = seed_tensor(seeds, len(tokens), tokens.device)
        t = self.temperature
        t = t.to(tokens.device, torch.float64) if isinstance(t, Tensor) else float(t)
        draws = Draws(seeds, t, self.top_k, self.top_p, tuple(self.exclude))
        open = (tokens == mask_id) if self.open is None else self.open
        stop = stop_of(self.stop, self.fill, mask_id, tokens.device)
        calls = TokenCalls(
            model, tokens, ~open.flatten(1), mask_id, draws, self.guidance, self.uncond, self.guidance_mode, self.time,
            self.shift, kwargs,
        )  # fmt: skip
        if self.open is not None:
            calls.tokens = calls.tokens.masked_fill(open.flatten(1), mask_id)
        calls.vocabulary = self.vocabulary
        return Run(
            plan, calls, open.flatten(1), mask_id, seeds, stop, self.block_start, self.see_ahead, tuple(tokens.shape)
        )

    def _check(self, plan: Plan, tokens: Tensor) -> None:
        if not isinstance(plan, Plan):
            raise TypeError(f"plan: expected one of fastdiff.tokens.plan, got {type(plan).__name__}")
        checks.require_tensor("tokens", tokens)
        checks.require_dtype("tokens", tokens, torch.int64)
        if tokens.ndim < 2:
            raise ValueError(f"tokens: expected shape [B, ...] of at least two dimensions, got {tuple(tokens.shape)}")
        if self.open is not None:
            checks.require_shape("open", self.open, tuple(tokens.shape))
            checks.require_dtype("open", self.open, torch.bool)
            checks.require_device("open", self.open, tokens)
        if self.time is not None and self.time not in ("t", "sigma") and not callable(self.time):
            raise ValueError(f"time: expected None, 't', 'sigma' or a function of alpha, got {self.time!r}")
        if not 0 <= self.block_start <= tokens[0:1].numel():
            raise ValueError(f"block_start: expected a position of the {tokens[0:1].numel()}, got {self.block_start}")
        if isinstance(self.temperature, Tensor):
            checks.require_shape("temperature", self.temperature, (len(tokens),))
        if not plan.rule.reads_rows and (self.top_k is not None or self.top_p is not None):
            raise ValueError(f"{'top_k' if self.top_k else 'top_p'}: not with the rule {plan.rule.name}")
        if tokens.ndim > 2:
            for name, wrong in (("plan", plan.block), ("stop", self.stop is not None), ("shift", self.shift)):
                if wrong:
                    raise ValueError(f"{name}: blocks, stop tokens and shifts need an order: tokens [B, L]")


def iter_sample(
    model: Callable,
    plan: Plan,
    tokens: Tensor,
    mask_id: int,
    *,
    seeds: Sequence[int] | Tensor | None = None,
    temperature: float | Tensor = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    guidance: float | Tensor | None = None,
    uncond: Mapping[str, object] | str | None = None,
    guidance_mode: str = "batch",
    exclude: Sequence[int] = (),
    stop: int | Sequence[int] | None = None,
    fill: int | None = None,
    open: Tensor | None = None,
    time: Time = None,
    shift: bool = False,
    block_start: int = 0,
    see_ahead: bool = True,
    vocabulary: int | None = None,
    **kwargs: object,
) -> Iterator[Step]:
    """Run a plan and yield a `Step` after every one of its steps. Arguments and errors are those of `sample`."""
    request = Request(
        seeds, temperature, top_k, top_p, guidance, uncond, guidance_mode, exclude, stop, fill, open, time, shift,
        block_start, see_ahead, vocabulary,
    )  # fmt: skip
    return _without_gradients(request.begin(model, plan, tokens, mask_id, kwargs))


@torch.no_grad()
def sample(
    model: Callable,
    plan: Plan,
    tokens: Tensor,
    mask_id: int,
    *,
    seeds: Sequence[int] | Tensor | None = None,
    temperature: float | Tensor = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    guidance: float | Tensor | None = None,
    uncond: Mapping[str, object] | str | None = None,
    guidance_mode: str = "batch",
    exclude: Sequence[int] = (),
    stop: int | Sequence[int] | None = None,
    fill: int | None = None,
    open: Tensor | None = None,
    time: Time = None,
    shift: bool = False,
    block_start: int = 0,
    see_ahead: bool = True,
    vocabulary: int | None = None,
    callback: Callable[[Step], bool | None] | None = None,
    progress: bool = False,
    return_evaluations: bool = False,
    **kwargs: object,
) -> Tensor | tuple[Tensor, int]:
    """Put tokens in place of the masks, and return them all, [B, ...] int64. Tokens that were given never change.

    model: model(tokens [B, ...], **kwargs) -> logits [B, ..., V], or an object with them as `.logits`. kwargs are the
        model's own; an unknown keyword is an error that names the nearest option.
    plan: from `fastdiff.tokens.plan` or `Plan.load`.
    tokens: [B, ...] int64, with `mask_id` wherever a token is wanted: after a prompt, or anywhere between others.
    mask_id: the mask's number, >= 0. It is never drawn; it may lie outside of the logits' vocabulary.
    seeds: B whole numbers, or an integer tensor [B]; from torch's generator if None. A sample depends on its seed and
        its tokens alone, not on the batch (on a deterministic model).
    temperature: >= 0, a number or [B]. 1 draws from the model, 0 takes the most probable token.
    top_k, top_p: what is drawn from, see `fastdiff.ops.token_stats`. Rules rank by the model's law without them.
    guidance: scale g of classifier-free guidance, a number or [B]: logits z_u + g (z_c - z_u).
    uncond: the keyword arguments that are different in the unconditional evaluation, or "masked": the same with masks
        in place of all given tokens (LLaDA, arXiv:2502.09992). guidance_mode: "batch" makes one call of both, "calls"
        two.
    exclude: up to 3 tokens, beside the mask, that are never drawn.
    stop: the token that ends a sequence, or several. What is generated after the first generated one is filled with
        `fill`, by default the (first) stop token; rules that change tokens do so at a block's end. tokens must be
        [B, L].
    open: [B, ...] bool, where to make tokens, in place of where the mask is.
    time: what else the model is given: None; "t", the keyword t = 1 - alpha [B]; "sigma", sigma = -ln(alpha); or a
        function from alpha [B] float64, the share of tokens that are no noise, to keyword arguments.
    shift: the logits at i are those of token i + 1, as in models made of autoregressive ones (Dream).
    block_start: where the first block of a plan with blocks ends its beginning, such as the prompt's length. see_ahead:
        whether the model is given the tokens after the block. It may return the logits of the block alone.
    vocabulary: V, which the rule "uniform" needs to draw its first tokens.
    callback: called with every `Step`. If it returns False the run ends there, and the tokens so far are returned.
    progress: show a tqdm bar. return_evaluations: also return how often the network was evaluated for each sample.

    The device is read before the first step and after the last; where a run can end early, for adaptive rules and stop
    tokens, once a step, on a GPU one step behind. Without any mask the model is not called. No gradients are recorded.
    Raises TypeError or ValueError naming the argument; "model" where its logits at a wanted token have a NaN or no
    finite number.

    >>> model = lambda tokens: torch.zeros(*tokens.shape, 100)  # any of 100 tokens
    >>> masks = torch.full((2, 16), 100)
    >>> sample(model, fd.tokens.plan("random", 4), masks, 100).shape
    torch.Size([2, 16])
    """
    request = Request(
        seeds, temperature, top_k, top_p, guidance, uncond, guidance_mode, exclude, stop, fill, open, time, shift,
        block_start, see_ahead, vocabulary,
    )  # fmt: skip
    run = request.begin(model, plan, tokens, mask_id, kwargs)
    steps = run.steps()
    if progress:
        from tqdm.auto import tqdm

        steps = tqdm(steps, desc=plan.rule.name, unit="step")
    for step in steps:
        if callback is not None and callback(step) is False:
            break
    found = run.tokens.view(tokens.shape)
    return (found, run.calls.evaluations) if return_evaluations else found


def _without_gradients(run: Run) -> Iterator[Step]:
    steps = run.steps()
    while True:
        with torch.no_grad():
            step = next(steps, None)
        if step is None:
            return
        yield step
