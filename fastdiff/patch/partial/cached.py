"""cached(model): a model with cheap calls, which take the inner part of its network from the latest full call."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ...sampling.model import checked_output
from ...sampling.network import as_model
from ..handle import Handle
from ..perturb.perturbed import network_of
from .follow import FollowHandle
from .kept import Keeper, Kept
from .split import Split, splits_of


class Cached:
    """A model with full and cheap calls, for plans with cheap rows; `fastdiff.cached` makes one.

    Nothing is left on the network between calls. State is a value, held by whoever calls: runs, micro-batches and the
    two evaluations of guidance each have their own, in any order and in any number.
    """

    def __init__(self, model: Callable[..., Any], network: nn.Module, splits: tuple[Split, ...], order: int) -> None:
        self.network, self.splits, self.order = network, splits, order
        self.one_time = bool(getattr(model, "one_time", False))  # as pipelines: a call's samples stand at one time
        self._model, self._keeper = as_model(model), Keeper(network, splits, order)

    def __call__(self, x: Tensor, t: Any, **kwargs: Any) -> Tensor:
        """The model's output [B, ...]; nothing is kept."""
        return checked_output(self._model(x, t, **kwargs), tuple(x.shape))

    def full(
        self, x: Tensor, t: Any, state: Kept | None = None, *, log_snr: float | Tensor | None = None, **kwargs: Any
    ) -> tuple[Tensor, Kept]:
        """(the model's output [B, ...], the state for cheap calls).

        state: that of the full call before this one. log_snr: log(alpha / sigma) at t, a number or [B], where cheap
        calls extrapolate; in t itself where it is not given. Raises ValueError with a state of other shapes.
        """
        if self.order and state is not None:
            state.check(x)
        return self._keeper.full(lambda: self(x, t, **kwargs), x, _place(t, log_snr), state)

    def cheap(self, x: Tensor, t: Any, state: Kept, *, log_snr: float | Tensor | None = None, **kwargs: Any) -> Tensor:
        """The output [B, ...] with what `full` kept in the place of the skipped modules. log_snr: as for `full`.

        Raises ValueError without a state, or with one of other shapes.
        """
        if not isinstance(state, Kept):
            raise ValueError(f"state: a cheap call needs what a full call returned, got {state!r:.80}")
        state.check(x)
        return self._keeper.cheap(lambda: self(x, t, **kwargs), _place(t, log_snr), state)

    def cost(self, x: Tensor, t: Any, *, repeats: int = 5, **kwargs: Any) -> float:
        """The time of a cheap call over that of a full one, measured here: the shortest of `repeats` of each."""
        with torch.no_grad():
            state = self.full(x, t, **kwargs)[1]
            for _ in range(self.order):
                state = self.full(x, t, state, **kwargs)[1]
            best = [float("inf"), float("inf")]
            for _ in range(repeats):
                for i, call in enumerate((lambda: self.cheap(x, t, state, **kwargs), lambda: self(x, t, **kwargs))):
                    began = time.perf_counter()
                    call().flatten()[:1].cpu()  # waits for the device
                    best[i] = min(best[i], time.perf_counter() - began)
        return best[0] / best[1]

    def modules(self) -> Iterator[nn.Module]:
        """Those of the network, and others that the model says it has."""
        yield from self.network.modules()
        yield from getattr(self._model, "modules", tuple)()

    def around(self, model: Callable[..., Any]) -> Cached:
        """The same cheap calls of the network, where it is another callable that runs it."""
        return Cached(model, self.network, self.splits, self.order)

    def follow(self, pipe: Any) -> Handle:
        """Have a diffusers pipeline run plans with cheap rows: its network makes the call that each row asks for.

        pipe: one whose components the network is among, with a `fastdiff.PlanScheduler` of such a plan, set before or
        after. With any other scheduler it runs as it did.

        Evaluations of guidance keep apart, in one batch or in calls one after the other: calls of a row are told apart
        by their order and by the shape of their first tensor. Every call of the pipeline begins anew. A call of which
        nothing is kept yet is a full one, as where an image to image run begins at a cheap row, or where a second
        network takes over; that one follows by itself, `fastdiff.cached(pipe.transformer_2).follow(pipe)`.
        Returns a handle whose `undo()` takes it back. Follow after torch.compile. Raises TypeError or ValueError naming
        the argument.
        """
        return FollowHandle(self._keeper, pipe)

    def __repr__(self) -> str:
        parts = ", ".join(f"{split.skip[0]} to {split.kept}" for split in self.splits)
        return f"<Cached {type(self.network).__name__}: cheap calls without {parts}>"


def cached(
    model: Callable[..., Any],
    *,
    levels: int = 1,
    blocks: int = 1,
    order: int = 1,
    split: Split | Iterable[Split] | None = None,
    network: nn.Module | None = None,
) -> Cached:
    """A model with cheap calls, for plans with cheap rows (`Plan.with_calls`).

    model: a network, or a callable model(x, t, **kwargs) around one, which is then given as `network`.
    levels: of a U-Net of diffusers, how many outer levels a cheap call runs; what comes up to them is kept, as in
        DeepCache (Ma et al. 2024).
    blocks: of a network with lists of transformer blocks, how many at the beginning of each list it runs; the residual
        of the others is kept.
    order: of the polynomial through what the latest full calls kept, in the log-SNR: 0 takes the latest as it is, 1
        goes on along the line through two, 2 along a parabola (TaylorSeer, Liu et al. 2025, there in numbers of steps).
        What is kept takes memory once, twice or three times.
    split: of any other network, what it does not run (`fastdiff.Split`).

    Cheap calls have the network run as it is written, also where it is compiled. Raises TypeError or ValueError naming
    the argument.
    """
    if order not in (0, 1, 2):
        raise ValueError(f"order: expected 0, 1 or 2, got {order!r}")
    found = network_of(model, network)
    return Cached(model, found, splits_of(found, split, levels, blocks), order)


def _place(t: Any, log_snr: float | Tensor | None) -> Any:
    if log_snr is not None:
        return log_snr
    return t.detach().clone() if isinstance(t, Tensor) else t
