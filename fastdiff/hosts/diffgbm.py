"""diffgbm's samplers on fastdiff's plans: NumPy in and out.

    import fastdiff.hosts.diffgbm  # registers the method

    y = model.sample(X, n_samples=100, n_steps=10, sampler_method="fastdiff")  # was: "euler" with 50 steps

n_steps counts evaluations of the trees for each sample.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..plans.build import plan as make_plan
from ..plans.plan import Plan
from ..plans.schedule import Schedule
from ..sampling.sample import sample

if TYPE_CHECKING:
    BaseSDESolver: Any = object
else:
    try:
        from diffgbm.sde.base_solver import BaseSDESolver
    except ImportError:

        class BaseSDESolver:
            """diffgbm's base class, where it is not installed."""

            def __init__(self, sde: Any, n_steps: int, seed: int | None = None) -> None:
                self.sde, self.n_steps = sde, n_steps


LEAST_TIME = 1e-5  # where diffgbm ends, and the least time of its training

Field = Callable[[np.ndarray, np.ndarray], np.ndarray]  # (y [..., D], t [..., 1]) -> [..., D]


class Path(NamedTuple):
    """A schedule in diffgbm's time, and the trees: what they predict is the schedule's default prediction."""

    schedule: Schedule
    field: Field


class Solver(BaseSDESolver):
    """The probability flow ODE in n_steps evaluations: `plan` is the default of `fastdiff.plan`.

    No noise is drawn: `pf_ode` makes no difference. It serves every SDE, and flow matching on any path; a positive
    `velocity_stochasticity` is refused. Raises ValueError naming what is wrong.
    """

    plan: str | Plan | None = None

    def step(self, y0: np.ndarray, t0: float, t1: float) -> np.ndarray:
        """diffgbm's interface; a run here is more than its steps."""
        raise NotImplementedError("a fastdiff solver runs as a whole: call integrate")

    def integrate(self, y0: np.ndarray, t0: float, t1: float) -> np.ndarray:
        """y [..., D], float64, from y0 at the begin of a whole run; diffgbm's reversed times t0 = 0 to t1 near 1."""
        path = path_of(self.sde)
        plan = self.plan
        if not isinstance(plan, Plan):
            plan = make_plan(plan, path.schedule, self.n_steps)
        elif plan.nfe != self.n_steps:
            raise ValueError(f"n_steps: expected {plan.nfe}, the plan's evaluations, got {self.n_steps}")

        def model(y: Tensor, t: Tensor) -> Tensor:
            times = np.full((*y.shape[:-1], 1), max(float(t[0]), LEAST_TIME))
            return torch.from_numpy(np.ascontiguousarray(path.field(y.numpy(), times), dtype=np.float64))

        noise = torch.from_numpy(np.array(y0, dtype=np.float64)) / plan.init_scale
        y = sample(model, plan, noise)
        assert isinstance(y, Tensor)
        return y.numpy()


def path_of(reverse: Any) -> Path:
    """The path of diffgbm's reversed dynamics.

    A velocity field dy/dt = v is solved in its own time on any path: the linear one's equations hold for all of them.
    """
    if hasattr(reverse, "stochasticity_schedule"):
        raise ValueError("velocity_stochasticity: expected 0, a fastdiff solver draws no noise")
    if hasattr(reverse, "velocity_fn"):
        return Path(Schedule.flow(), reverse.velocity_fn)
    if not hasattr(reverse, "score_fn"):
        raise ValueError(f"sde: expected a reversed SDE with its score or velocity, got {reverse!r}")

    def alpha(t: np.ndarray) -> np.ndarray:
        return reverse.sde.get_mean_std_pt_given_y0(np.ones_like(t), t)[0]

    def sigma(t: np.ndarray) -> np.ndarray:
        return reverse.sde.get_mean_std_pt_given_y0(np.ones_like(t), t)[1]

    schedule = Schedule.from_functions(alpha, sigma, LEAST_TIME, reverse.t_reverse_origin, prediction="score")
    return Path(schedule, reverse.score_fn)


def register(name: str, plan: str | Plan | None = None) -> type[Solver]:
    """Make `sampler_method=name` draw by this plan, by a solver of `fastdiff.solvers()`, or by the default if None.

    Raises ImportError where diffgbm is not installed, and its ValueError for a name that is taken.
    """
    from diffgbm.sde.base_solver import _register_solver

    return _register_solver(name)(type(Solver.__name__, (Solver,), {"plan": plan}))


if BaseSDESolver.__module__ != __name__:
    register("fastdiff")
