"""The calls of a plan with cheap rows: at each row the model is asked for a full evaluation or for a partial one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from torch import Tensor


class PartialModel(Protocol):
    """A model that can answer from what it computed before, as `fastdiff.cached` makes one. State is a value.

    Nothing of a run is on the model: whoever calls it holds the state, one for each run, batch and set of arguments.
    """

    def full(
        self, x: Tensor, t: Tensor, state: Any = None, *, log_snr: float | Tensor | None = None, **kwargs: object
    ) -> tuple[Tensor, Any]:
        """(prediction [B, ...], the state after it). state: after the full call before this one, None at the start.

        log_snr: log(alpha / sigma) of the row, or [B] of each sample's, for models that know no schedule.
        """

    def cheap(
        self, x: Tensor, t: Tensor, state: Any, *, log_snr: float | Tensor | None = None, **kwargs: object
    ) -> Tensor:
        """The prediction [B, ...] from x, t and the state after the latest full call."""


def has_cheap_calls(model: object) -> bool:
    """Whether a model has the methods of `PartialModel`."""
    return callable(getattr(model, "cheap", None)) and callable(getattr(model, "full", None))


class Here(NamedTuple):
    """The row at hand: its number, its call, and its log-SNR, [n] where samples stand at different ones."""

    i: int
    call: str
    log_snr: float | Tensor


class RowCalls:
    """model(x, t, **kwargs) of one run, which makes the call that the row asks for.

    here: says which row is at hand; whoever runs the rows sets it before the first call.
    Each set of arguments has a state of its own: the conditional and the unconditional evaluation never mix.
    Raises TypeError where the model has no cheap calls.
    """

    here: Callable[[], Here]

    def __init__(self, model: Callable | PartialModel) -> None:
        if not has_cheap_calls(model):
            raise TypeError(
                "plan: it asks for cheap calls, and the model has no methods full and cheap; pass"
                " fastdiff.cached(model), or run plan.with_calls(['full'])"
            )
        self._model: Any = model
        self._states: dict[frozenset, Any] = {}

    def __call__(self, x: Tensor, t: Tensor, **kwargs: object) -> Tensor:
        # Whoever runs the rows holds the arguments, so that no two of them have one id.
        branch = frozenset((name, id(value)) for name, value in kwargs.items())
        state = self._states.get(branch)
        i, call, log_snr = self.here()
        if isinstance(log_snr, Tensor):  # the evaluations of guidance in one batch come one after the other
            log_snr = log_snr.repeat(len(x) // len(log_snr))
        if call == "full":
            m, self._states[branch] = self._model.full(x, t, state, log_snr=log_snr, **kwargs)
            return m
        if state is None:
            raise ValueError(
                f"plan: row {i} asks for a cheap call with arguments that no full row before it was called"
                " with; make rows where other outputs have weight full ones, plan.with_calls"
            )
        return self._model.cheap(x, t, state, log_snr=log_snr, **kwargs)
