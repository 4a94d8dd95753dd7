"""ODESolver: flow_matching's solver of continuous flows, on fastdiff's plans."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ...plans.plan import Plan
from ..torchdiffeq import odeint
from ..torchdiffeq.integrate import THEIRS
from ..torchdiffeq.times import by_step_size


class ODESolver:
    """Integrates dx/dt = velocity_model(x=x, t=t, **extras) from noise at t = 0 to data at t = 1, or back.

    velocity_model: a ModelWrapper or any function, on the path x_t = t x_1 + (1 - t) x_0 (CondOTProbPath); t has no
    dimension. The methods that the library has too serve any path.
    """

    def __init__(self, velocity_model: Callable[..., Tensor]) -> None:
        self.velocity_model = velocity_model

    def sample(
        self,
        x_init: Tensor,
        step_size: float | None,
        method: str | Plan | None = None,
        atol: float = 1e-5,
        rtol: float = 1e-5,
        time_grid: Tensor | Sequence[float] = (0.0, 1.0),
        return_intermediates: bool = False,
        enable_grad: bool = False,
        **model_extras: Any,
    ) -> Tensor:
        """x at the end of time_grid, [B, ...]; with return_intermediates at all of its times, [T, B, ...].

        step_size: of even steps; None makes steps of the time_grid itself. method: None is the measured default with as
        many evaluations as Euler's method would make of these steps, and Euler's method with enable_grad. Or any of
        `fastdiff.odeint`: "euler", "midpoint" and "heun2" give the library's numbers, and torchdiffeq's others are left
        to torchdiffeq. time_grid: in [0, 1], may fall. atol, rtol: of adaptive methods. model_extras: the model's.
        Raises TypeError or ValueError naming the argument.
        """
        t = torch.as_tensor(time_grid, device=x_init.device)
        t = t if t.is_floating_point() else t.float()

        def velocity(t: Tensor, x: Tensor) -> Tensor:
            return self.velocity_model(x=x, t=t, **model_extras)

        options: dict[str, Any] = {} if step_size is None else {"step_size": step_size}
        if method is None and not enable_grad:
            steps = len(t) if step_size is None else len(by_step_size(t, step_size))
            method, options = "fastdiff", {"evaluations": steps - 1}
        method = method or "euler"
        if method not in THEIRS:
            options["data_at"] = 1
        with torch.set_grad_enabled(enable_grad):
            found = odeint(velocity, x_init, t, method=method, options=options, atol=atol, rtol=rtol)
        return found if return_intermediates else found[-1]

    def compute_likelihood(
        self, x_1: Tensor, log_p0: Callable, step_size: float | None, *args: Any, **kwargs: Any
    ) -> Any:
        """The library's own: the divergence takes derivatives of the model, which no plan does.

        Raises ImportError where flow_matching is not installed.
        """
        try:
            library = importlib.import_module("flow_matching.solver")
        except ImportError as error:
            raise ImportError("compute_likelihood: it is flow_matching's own; pip install flow-matching") from error
        return library.ODESolver(self.velocity_model).compute_likelihood(x_1, log_p0, step_size, *args, **kwargs)
