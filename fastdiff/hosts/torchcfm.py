"""torchdyn's NeuralODE, as torchcfm's examples draw with it, on fastdiff's plans: import it from here instead.

from fastdiff.hosts.torchcfm import NeuralODE
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..plans.plan import Plan
from .torchdiffeq import odeint
from .torchdiffeq.integrate import THEIRS

# Its methods that no plan has.
TORCHDYNS = (
    *(*THEIRS, "tsit5", "rk-4", "ieuler", "implicit_euler", "alf", "RungeKutta4", "AsynchronousLeapfrog"),
    *("DormandPrince45", "DormandPrince5", "Tsitouras45", "Tsitouras5"),
)


class NeuralODE(nn.Module):
    """dx/dt = vector_field(t, x) from noise at t = 0 to data at t = 1, or back.

    vector_field: (t, x) -> dx/dt, t without a dimension, such as torchcfm's torch_wrapper(model). solver: None is the
    measured default; a name of `fastdiff.odeint`, or a `Plan`; "euler" and "midpoint" give torchdyn's numbers. Its
    adaptive methods are left to torchdyn, and so is training: gradients, adjoints, integral losses, orders above 1.
    evaluations: of the default; None is as many as Euler's method would make on the times t_span.
    Raises ImportError where torchdyn is needed and not installed.
    """

    def __init__(
        self,
        vector_field: Callable[..., Tensor],
        solver: str | Plan | None = None,
        order: int = 1,
        atol: float = 1e-3,
        rtol: float = 1e-3,
        sensitivity: str = "autograd",
        *,
        return_t_eval: bool = True,
        evaluations: int | None = None,
        **theirs: Any,
    ) -> None:
        super().__init__()
        self.vf, self.solver, self.evaluations, self.return_t_eval = vector_field, solver, evaluations, return_t_eval
        self._theirs: Any = None
        ours = solver is None or isinstance(solver, Plan) or (isinstance(solver, str) and solver not in TORCHDYNS)
        if not ours or order != 1 or theirs.get("integral_loss") is not None:
            self._theirs = _torchdyn(vector_field, solver or "tsit5", order, atol, rtol, sensitivity, theirs)
        self._args: dict[str, Any] = {} if not _takes_args(vector_field) else {"args": {}}

    def trajectory(self, x: Tensor, t_span: Tensor) -> Tensor:
        """The states at the times t_span, in [0, 1], rising or falling: [len(t_span), B, ...]."""
        if self._theirs is not None:
            return self._theirs.trajectory(x, t_span)
        options: dict[str, Any] = {"data_at": 1}
        method = self.solver
        if method is None:
            method, options["evaluations"] = "fastdiff", self.evaluations or len(t_span) - 1
        with torch.no_grad():
            return odeint(self._field, x, t_span.to(x.device), method=method, options=options)

    def forward(self, x: Tensor, t_span: Tensor | None = None) -> tuple[Tensor, Tensor] | Tensor:
        """(t_span, trajectory), or the trajectory alone without return_t_eval."""
        t_span = torch.linspace(0, 1, 2) if t_span is None else t_span
        found = self.trajectory(x, t_span)
        return (t_span, found) if self.return_t_eval else found

    def _field(self, t: Tensor, x: Tensor) -> Tensor:
        return self.vf(t, x, **self._args)


def _takes_args(function: Callable) -> bool:
    """Whether the function takes torchdyn's keyword args."""
    parameters = inspect.signature(getattr(function, "forward", function)).parameters.values()
    return any(p.name == "args" and p.kind is not p.VAR_POSITIONAL for p in parameters)


def _torchdyn(
    field: Callable, solver: Any, order: int, atol: float, rtol: float, sensitivity: str, options: dict[str, Any]
) -> Any:
    try:
        library = importlib.import_module("torchdyn.core")
    except ImportError as error:
        raise ImportError(f"solver: {solver!r} is torchdyn's, which is not installed: pip install torchdyn") from error
    return library.NeuralODE(
        field, solver=solver, order=order, atol=atol, rtol=rtol, sensitivity=sensitivity, **options
    )
