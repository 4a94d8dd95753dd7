"""F5-TTS and E2-TTS: any plan in the place of the ODE solver of `CFM.sample` (arXiv:2410.06885).

    from fastdiff.hosts import f5_tts

    handle = f5_tts.patch(model)  # then model.sample(cond, text, duration, steps=8, cfg_strength=2.0) as before
    handle.undo()

`CFM.sample` asks torchdiffeq for the method that stands in `model.odeint_kwargs`. fastdiff is one of its methods from
the first `patch` on, and the only thing that is changed of the model is that dictionary.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..patch.handle import Handle
from ..plans.plan import Plan
from .velocity import Velocity, plan_of, solve

METHOD = "fastdiff"


def patch(model: Any, solver: str | Plan | None = None, *, guided: bool = True) -> Handle:
    """Let `model.sample` draw with fastdiff; returns a handle with `undo()`.

    model: an `f5_tts.model.CFM`: with odeint_kwargs, that it passes to `torchdiffeq.odeint` with its velocity field,
        noise at t = 0 and the times from 0 to 1.
    solver: None for the default plan of `steps` evaluations; its times are its own, use_epss and sway_sampling_coef
        have no effect. A name of `fastdiff.solvers()` is that solver on the model's times; "euler" is what F5-TTS does
        itself. A plan on `fastdiff.Schedule.flow()`, a fitted one too, is run whatever `steps` is.
    guided: whether cfg_strength is well above 0, as `fastdiff.plan(None, guided=)`; F5-TTS infers with 2.0, a scale
        of 3.

    The trajectory that `sample` returns has the plan's states, at the plan's times.
    Raises TypeError for another model, TypeError or ValueError for a solver, ValueError for a model that is patched
    already, ImportError without torchdiffeq.
    """
    if not isinstance(getattr(model, "odeint_kwargs", None), dict) or not callable(getattr(model, "sample", None)):
        raise TypeError(f"model: expected an f5_tts CFM, with sample and odeint_kwargs, got {type(model).__name__}")
    if model.odeint_kwargs.get("method") == METHOD:
        raise ValueError("model: it draws with fastdiff already; undo that first")
    plan_of(solver, (0.0, 1.0), guided)  # complains now
    from torchdiffeq._impl.odeint import SOLVERS

    SOLVERS.setdefault(METHOD, Method)
    handle = Handle(model, "hosts.f5_tts.patch")
    options = {"solver": solver, "guided": guided}
    handle.set_attribute(model, "odeint_kwargs", {"method": METHOD, "options": options}, "ODE method")
    return handle


class Method:
    """A method of torchdiffeq, as its `odeint` makes and calls one. The field's t rises from noise to data."""

    def __init__(
        self, func: Velocity, y0: Tensor, solver: str | Plan | None = None, guided: bool = True, **unused: object
    ) -> None:
        self.func, self.y0, self.solver, self.guided = func, y0, solver, guided

    @classmethod
    def valid_callbacks(cls) -> set[str]:
        """None of torchdiffeq's."""
        return set()

    def integrate(self, t: Tensor) -> Tensor:
        """The states [K, B, ...], the first of them y0. t: [n + 1] rising within [0, 1]."""

        def velocity(x: Tensor, t: Tensor) -> Tensor:
            return self.func(t, x)

        return solve(velocity, t, self.y0, self.solver, self.guided)

    def integrate_until_event(self, t0: Tensor, event_fn: object) -> tuple[Tensor, Tensor]:
        """Not here."""
        raise ValueError(f"event_fn: method {METHOD!r} has no events; use one of torchdiffeq's own")
