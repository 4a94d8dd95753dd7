"""odeint: dy/dt = func(t, y) along the linear path between noise and data, by any ODE solver of the catalogue."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ...ops.checks import FLOATS
from ...plans.plan import Plan
from ...sampling.stepper import Stepper, stepper
from . import plans, times

# What torchdiffeq alone has; None is its dopri5.
THEIRS = (
    *("dopri5", "dopri8", "bosh3", "fehlberg2", "adaptive_heun", "heun3", "rk4"),
    *("explicit_adams", "implicit_adams", "fixed_adams", "scipy_solver"),
)
BOTH = ("euler", "midpoint", "heun2")
CALLBACKS = ("callback_step", "callback_accept_step", "callback_reject_step")
AT_POINT = 1e-9  # times nearer than this are one


def odeint(
    func: Callable[[Tensor, Tensor], Tensor],
    y0: Tensor,
    t: Tensor,
    *,
    rtol: float | Tensor = 1e-7,
    atol: float | Tensor = 1e-9,
    method: str | Plan | None = None,
    options: dict[str, Any] | None = None,
    event_fn: Callable | None = None,
) -> Any:
    """`torchdiffeq.odeint` for the velocity field of a flow model: dy/dt = func(t, y), y(t[0]) = y0.

    On the linear path y = alpha x0 + sigma eps, alpha + sigma = 1, one of t and 1 - t is sigma. Solvers for diffusion
    models need to know which: the run ends on data, or, with options={"data_at": ...}, they are at that time, 0 or 1.

    func: the scalar t and y [B, ...] -> [B, ...]. t: at least two times in [0, 1], rising or falling.
    method: "fastdiff", with options={"evaluations": n}: the measured default, `fd.plan(None, ...)`. A name of
        `fd.solvers()`, for ODEs, on the times t, or with torchdiffeq's options={"step_size": h} or a
        "grid_constructor", or with {"grid": times from t[0] to t[-1]}, or {"steps": n, "grid": a name} from noise to
        data. A `Plan`, from `fd.fit` for instance. "euler", "midpoint" and "heun2" give torchdiffeq's numbers. Other
        options are the solver's.
    Everything else is torchdiffeq's, and is given to it: its other methods, None among them without "evaluations";
    and, if the method is one of its, tuples, events, callbacks, perturb, cubic interpolation, and gradients of y0, t or
    func's parameters. rtol and atol are for these alone.
    Returns [len(t), ...] in y0's dtype, the first of them y0; between points of the grid states are interpolated
    linearly. The state is float32, or float64 for float64. No gradients are recorded.
    Raises TypeError or ValueError naming the argument, ImportError where torchdiffeq is needed and not installed.

    >>> def velocity(t, y):  # from noise at 0 to unit Gaussian data at 1
    ...     return (2 * t - 1) / ((1 - t) ** 2 + t**2) * y
    >>> ends = torch.tensor([0.0, 1.0])
    >>> odeint(velocity, torch.randn(16, 3), ends, method="fastdiff", options={"evaluations": 8}).shape
    torch.Size([2, 16, 3])
    """
    given = dict(options or {})

    def theirs() -> Any:
        known = None if options is None else {name: value for name, value in options.items() if name != "data_at"}
        return _torchdiffeq(func, y0, t, rtol, atol, method, known, event_fn)

    if (method is None and "evaluations" not in given) or (isinstance(method, str) and method in THEIRS):
        return theirs()
    beyond = _beyond(func, y0, t, given, event_fn)
    if beyond is not None:
        if method in BOTH:
            return theirs()
        raise ValueError(f"method: {_told(method)} does not do {beyond}; torchdiffeq's do, such as 'dopri5'")
    wanted = times.requested(t)
    data_at = given.pop("data_at", 1 if wanted[-1] > wanted[0] else 0)
    if data_at not in (0, 1):
        raise ValueError(f"data_at: expected 0 or 1, the time of the data, got {data_at!r}")
    plan = _plan(method, func, y0, t, wanted, int(data_at), given)
    return _run(func, y0, wanted, plan, int(data_at), theirs if method in BOTH else None)


def _plan(
    method: str | Plan | None, func: Callable, y0: Tensor, t: Tensor, wanted: list[float], data_at: int, given: dict
) -> Plan:
    def levels(at: list[float]) -> list[float]:
        # Sigma of the linear path.
        return [abs(value - data_at) for value in at]

    first, last = levels([wanted[0], wanted[-1]])
    places = {name: given.pop(name) for name in ("step_size", "grid_constructor", "grid", "steps") if name in given}
    for name in ("interp", "perturb", "norm"):
        given.pop(name, None)
    if method is None or method == plans.DEFAULT:
        if places or "evaluations" not in given:
            names = ", ".join(places) or "nothing"
            raise ValueError(f"options: the default takes 'evaluations' and chooses its own times, got {names}")
        return plans.default_between(first, last, given.pop("evaluations"), tuple(given.items()))
    if isinstance(method, Plan):
        if places or given:
            raise ValueError(f"options: a plan has its own, got {', '.join((*places, *given))}")
        return plans.own(method, first, last)
    if isinstance(places.get("grid"), str) or "steps" in places:
        if (first, last) != (1.0, 0.0) or set(places) - {"grid", "steps"}:
            raise ValueError("steps: with the name of a grid, it is for whole runs from noise to data")
        return plans.make_plan(method, plans.PATH, places.get("steps"), grid=places.get("grid"), **given)
    if len(places) > 1:
        raise ValueError(f"options: expected one of step_size, grid_constructor and grid, got {', '.join(places)}")
    at = wanted
    if "step_size" in places:
        at = times.by_step_size(t, places["step_size"])
    elif "grid_constructor" in places:
        at = times.explicit(places["grid_constructor"](func, y0, t), t)
    elif "grid" in places:
        at = times.explicit(places["grid"], t)
    return plans.of_solver(method, tuple(levels(at)), tuple(given.items()))


def _run(
    func: Callable, y0: Tensor, wanted: list[float], plan: Plan, data_at: int, theirs: Callable[[], Any] | None
) -> Tensor:
    """The states at the wanted times. theirs: what is done where the output carries a graph, which shows when asked."""
    dtype, device = y0.dtype, y0.device
    asked = torch.tensor([abs(row.t - data_at) for row in plan.rows], dtype=torch.float64).to(dtype).to(device)
    with torch.no_grad():
        s = stepper(plan, y0 / plan.init_scale)
        found = _Found(y0, wanted)
        m = None
    for i in range(s.n):
        with torch.set_grad_enabled(torch.is_grad_enabled() and i == 0):
            m = func(asked[i], s.model_input)
        if isinstance(m, Tensor) and m.requires_grad:
            if theirs is not None:
                return theirs()
            raise ValueError(
                f"method: {plan.solver} records no gradients, and func's output has some; torch.no_grad() around it,"
                " or one of torchdiffeq's methods, such as 'dopri5'"
            )
        _advance(s, -m if data_at and isinstance(m, Tensor) else m)
        assert s.step is not None
        if s.step.accepted:
            found.reach(abs(plan.point_after(i)[1] - data_at), s.x)
    return found.states


def _advance(s: Stepper, m: Tensor) -> None:
    try:
        s.advance(m)
    except (TypeError, ValueError) as error:
        raise type(error)(str(error).replace("output:", "func:", 1)) from None


class _Found:
    """The states at the wanted times of a run that passes them, [len(wanted), ...]."""

    def __init__(self, y0: Tensor, wanted: list[float]) -> None:
        self.states = torch.empty(len(wanted), *y0.shape, dtype=y0.dtype, device=y0.device)
        self.states[0] = y0
        self._wanted, self._next = wanted, 1
        self._before: tuple[float, Tensor | None] = (wanted[0], y0)
        self._sign = 1 if wanted[-1] > wanted[0] else -1

    def reach(self, t: float, x: Tensor) -> None:
        """The run is at x at time t: fill in what lies between."""
        t0, before = self._before
        while self._next < len(self._wanted) and self._sign * (self._wanted[self._next] - t) <= AT_POINT:
            at = self._wanted[self._next]
            share = 1.0 if abs(at - t) <= AT_POINT else (at - t0) / (t - t0)
            self.states[self._next] = x if share == 1 or before is None else torch.lerp(before.to(x), x, share)
            self._next += 1
        if self._next < len(self._wanted):
            self._before = t, x.clone()


def _beyond(func: Callable, y0: Any, t: Any, options: dict, event_fn: object) -> str | None:
    """What torchdiffeq alone can do, where it is asked for."""
    if event_fn is not None:
        return "events"
    if not isinstance(y0, Tensor):
        return "states of several tensors"
    if y0.dtype not in FLOATS or y0.ndim == 0:
        return f"states of {y0.dtype} and shape {tuple(y0.shape)}"
    if options.get("perturb") or options.get("interp", "linear") != "linear":
        return "perturbed times or cubic interpolation"
    if any(hasattr(func, name) for name in CALLBACKS):
        return "callbacks"
    if torch.is_grad_enabled():
        parameters = func.parameters() if isinstance(func, nn.Module) else ()
        if y0.requires_grad or getattr(t, "requires_grad", False) or any(p.requires_grad for p in parameters):
            return "gradients (torch.no_grad() around it if none are wanted)"
    return None


def _told(method: object) -> str:
    return method.solver if isinstance(method, Plan) else repr(method)


def _torchdiffeq(
    func: Callable, y0: Any, t: Tensor, rtol: Any, atol: Any, method: Any, options: Any, event_fn: Any
) -> Any:
    try:
        import torchdiffeq
    except ImportError as error:
        raise ImportError(
            f"method: {method!r} with these arguments is torchdiffeq's, which is not installed: pip install torchdiffeq"
        ) from error
    return torchdiffeq.odeint(func, y0, t, rtol=rtol, atol=atol, method=method, options=options, event_fn=event_fn)
