"""Matcha-TTS, and models with its `solve_euler`: any plan in the place of their Euler loop (arXiv:2309.03199).

    from fastdiff.hosts import matcha_tts

    handle = matcha_tts.patch(model)  # model(...) and model.synthesise(x, x_lengths, n_timesteps=6) as before
    handle.undo()

The package itself is not needed: models are known by what they have.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..patch.handle import Handle
from ..plans.plan import Plan
from .velocity import plan_of, solve


def patch(model: Any, solver: str | Plan | None = None, *, guided: bool = False) -> Handle:
    """Let a model's flow decoder draw with fastdiff; returns a handle with `undo()`.

    The ODE is dx/dt = estimator(x, mask, mu, t, spks, cond) from noise at t = 0 to a spectrogram at t = 1.

    model: a `MatchaTTS`, or its decoder, a `BASECFM`: with solve_euler(x, t_span, mu, mask, spks, cond) and estimator.
    solver: None for the default plan of `n_timesteps` evaluations, whose times are its own. A name of
        `fastdiff.solvers()` is that solver on the model's times; "euler" is what Matcha-TTS does itself. A plan on
        `fastdiff.Schedule.flow()`, a fitted one too, is run whatever n_timesteps is.
    guided: whether the estimator applies guidance at a scale well above 1, as `fastdiff.plan(None, guided=)`.

    Raises TypeError for a model without such a decoder, TypeError or ValueError for a solver, ValueError for a model
    that is patched already.
    """
    decoder = _decoder_of(model)
    if isinstance(decoder, _Decoder):
        raise ValueError("model: it draws with fastdiff already; undo that first")
    plan_of(solver, (0.0, 1.0), guided)  # complains now
    handle = Handle(model, "hosts.matcha_tts.patch")
    new = type(type(decoder).__name__, (_Decoder, type(decoder)), {})
    handle.set_class(decoder, new, "flow decoder", _fastdiff=(solver, guided))
    return handle


class _Decoder:
    """What stands before the decoder's own class."""

    estimator: Any
    _fastdiff: tuple[str | Plan | None, bool]

    def solve_euler(self, x: Tensor, t_span: Tensor, mu: Tensor, mask: Tensor, spks: Any, cond: Any) -> Tensor:
        """x [B, channels, frames] at t_span[-1], from noise at t_span[0]."""

        def velocity(x: Tensor, t: Tensor) -> Tensor:
            return self.estimator(x, mask, mu, t, spks, cond)

        return solve(velocity, t_span, x, *self._fastdiff)[-1]


def _decoder_of(model: Any) -> Any:
    for found in (model, getattr(model, "decoder", None)):
        if callable(getattr(found, "solve_euler", None)) and hasattr(found, "estimator"):
            return found
    raise TypeError(
        f"model: expected a MatchaTTS or a BASECFM, with solve_euler and estimator, got {type(model).__name__}"
    )
