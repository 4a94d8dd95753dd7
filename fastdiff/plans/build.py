"""`plan`: a solver by its name, on a schedule and a grid, as a table of coefficients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ..keywords import options_of
from .catalogue import find_solver
from .default import SOLVER, TABULATED, check_alone, default_plan, default_table
from .grid import make_grid
from .jumps import with_jumps
from .options import MEANINGS, check_names, check_order, check_values
from .plan import Plan
from .row import Row
from .schedule import Points, Schedule
from .schedule_argument import require_schedule
from .solvers.ancestral import ddim
from .solvers.dpm_solver_v3 import Statistics
from .solvers.entry import Solver
from .solvers.karras import finite_at_zero, midpoint
from .tabulated import points_of, spread_of, tabulated


def plan(
    solver: str | None,
    schedule: Schedule,
    steps: int | None = None,
    *,
    grid: str | ArrayLike | None = None,
    prediction: str | None = None,
    guided: bool = False,
    final_sigma: str = "zero",
    sigmas: ArrayLike | None = None,
    start: float = 1.0,
    rho: float | None = None,
    steps_offset: int = 0,
    log_snr_min: float = -np.inf,
    invert: bool = False,
    jumps: tuple[int, int] | None = None,
    order: int | None = None,
    eta: float | None = None,
    s_noise: float | None = None,
    s_churn: float | None = None,
    s_tmin: float | None = None,
    s_tmax: float | None = None,
    max_churn: float | None = None,
    step_scale: float | None = None,
    form: str | None = None,
    correction: str | None = None,
    exact: bool | None = None,
    lower_order_final: bool | None = None,
    max_ratio: float | None = None,
    coordinate: str | None = None,
    clean_end: str | None = None,
    equal_steps: bool | None = None,
    variable: str | None = None,
    variant: str | None = None,
    corrector: bool | None = None,
    uncorrected: Sequence[int] | None = None,
    predictor_order: int | None = None,
    corrector_order: int | None = None,
    pece: bool | None = None,
    tau: float | Callable[[float], float] | None = None,
    simple: bool | None = None,
    statistics: Statistics | None = None,
    noise_scaler: Callable[[np.ndarray], np.ndarray] | None = None,
    gamma: float | None = None,
    noise_left: float | None = None,
    timestep_scaling: float | None = None,
    intervals: Sequence[Sequence[float]] | None = None,
    runge_kutta: bool | None = None,
    r: float | None = None,
    r1: float | None = None,
    r2: float | None = None,
    **unknown: object,
) -> Plan:
    """The table of a run: `steps` steps of `solver` on `schedule`.

    solver: a name of `fastdiff.solvers()` or an alias ("DPM++ 2M Karras", which brings its grid). None for the
        default, which was found by measurement (docs/choosing.md): `steps` is then the number of model evaluations,
        and the solver, its options and the grid are its own.
    schedule: the model's, a `fastdiff.Schedule`.
    steps: intervals of the grid. Each takes as many model evaluations as the solver's `nfe` says, mostly one.
    grid: "time" (the default), "logsnr", "quadratic", "power", "logistic", "karras", "exponential", "linspace",
        "leading", "trailing", "ays", or an array of the times at which the model is called. ComfyUI's names are known
        too: "simple", "normal", "sgm_uniform", "ddim_uniform", "beta", "beta57", "linear_quadratic", "kl_optimal",
        "laplace", "polyexponential".
    prediction: what the model predicts: "epsilon", "sample", "v_prediction", "flow_prediction" or "score". The default
        is "flow_prediction" on flow schedules and "epsilon" on others.
    guided: of solver=None; whether the run is guided by a scale well above 1, which asks for a lower order.
    final_sigma: "zero" ends on clean data, "sigma_min" at the least noise of the grid.
    sigmas: all points of the grid as sigma/alpha (t on flow schedules), the last one included, instead of `grid`.
    start: the share of the steps that is run, the last ones (image to image).
    rho, steps_offset, log_snr_min: see `fastdiff.plans.grid.make_grid`.
    invert: run the grid backwards, from data to noise, with an ODE solver. `sample(model, plan, image)` is then the
        noisy x that the solver would bring back to the image; divided by the `init_scale` of the plan that is not
        inverted it is the image's noise. The step from sigma = 0 is of first order, and the model is asked at the
        schedule's least time. Velocities on flow schedules are finite at sigma = 0: there it is the solver's own step,
        or the midpoint rule's with one evaluation more.

    jumps: (length, times), RePaint's: every `length` steps the run goes back to where they began, by noise, and takes
        them again, `times` in all. With a mask or an observation the parts of x then have time to agree.

    The others are options of single solvers. None leaves the solver's default; `print(fastdiff.solver("unipc"))` shows
    the options of one, what they mean and what they are by default. Often used:
    order: of the method. eta: fresh noise, 0 for the ODE and 1 for the reverse SDE. s_noise: factor of all fresh noise.
    s_churn, s_tmin, s_tmax, max_churn: noise put back before steps (Karras et al. 2022, algorithm 2).
    step_scale: of euler; longer steps, as models of structures take them (Abramson et al. 2024, algorithm 18).
    lower_order_final: let the order fall to 1 over the last steps.
    max_ratio: of solvers that extrapolate in lambda; a step so many times longer than the one before is of first order.
        2.5 by default; math.inf is the method as published.

    Raises TypeError or ValueError naming the argument. An option that the solver does not have, or that does not exist,
    is a ValueError with the name that was meant.

    >>> plan("dpmpp_2m", Schedule.scaled_linear(), 20, grid="karras")
    <Plan dpmpp_2m on karras: 20 evaluations, epsilon, t 999 to 0, sigma 0.9977 to 0>
    >>> plan(None, Schedule.flow(), 8)
    <Plan tabulated on tabulated: 8 evaluations, flow_prediction, t 1 to 0.0643, sigma 1 to 0>
    """
    # First of all, while the arguments are the only local names.
    options: dict[str, Any] = {k: v for k, v in locals().items() if k in MEANINGS and v is not None}
    center = 1.0
    if solver is None:
        own_grid = {"grid": grid, "sigmas": sigmas, "rho": rho, "steps_offset": steps_offset or None}
        least = None if log_snr_min == -np.inf else log_snr_min
        bounds = {"log_snr_min": least, "invert": invert or None, "jumps": jumps}
        check_alone({**unknown, **options, **{k: v for k, v in {**own_grid, **bounds}.items() if v is not None}})
        chosen = default_plan(schedule, steps, guided)
        table = default_table(schedule, steps, guided, start, final_sigma)
        if table and (points := points_of(table, schedule)):
            prediction = schedule.default_prediction if prediction is None else prediction
            rows = tabulated(points, prediction, table.shares)
            return Plan(tuple(rows), (1.0, 0.0), prediction, TABULATED, TABULATED, schedule.knots())
        solver, grid, rho = SOLVER, chosen.grid, chosen.rho
        options, center = {"order": chosen.order}, spread_of(schedule) if chosen.centered else 1.0
    elif guided:
        raise ValueError(f"guided: belongs to the default, solver=None; {solver!r} is the same with guidance")
    entry, named_grid = find_solver(solver)
    require_schedule(schedule)
    own = ("steps", *(name for name in options_of(plan) if name not in MEANINGS))
    check_names(entry.name, {**unknown, **options}, entry.options, own)
    prediction = schedule.default_prediction if prediction is None else prediction
    grid = grid if grid is not None else named_grid or "time"
    points = make_grid(
        schedule, steps, grid, final_sigma=final_sigma, sigmas=sigmas, start=start, rho=rho, center=center,
        steps_offset=steps_offset, log_snr_min=log_snr_min, prediction=prediction,
    )  # fmt: skip
    if order is not None:
        check_order(order, entry.max_order, len(points.t) - 1 if entry.nfe == 1 else None)
    check_values(options)
    if invert:
        if entry.stochastic or options.get("eta") or options.get("s_churn"):
            raise ValueError(f"invert: expected an ODE solver, got {entry.name} with noise")
        if jumps is not None:
            raise ValueError("jumps: they add noise, which a run with invert=True has none of")
        rows, points = _inverted(entry, schedule, points, prediction, options)
    elif jumps is not None:
        if not isinstance(jumps, (tuple, list)) or len(jumps) != 2:
            raise ValueError(f"jumps: expected (length, times), got {jumps!r}")
        rows = with_jumps(lambda stretch: entry.rows(schedule, stretch, prediction, **options), points, *jumps)
    else:
        rows = entry.rows(schedule, points, prediction, **options)
    name = grid if isinstance(grid, str) and sigmas is None else "explicit"
    end = float(points.alpha[-1]), float(points.sigma[-1])
    return Plan(tuple(rows), end, prediction, entry.name, name, schedule.knots())


def _inverted(
    entry: Solver, schedule: Schedule, points: Points, prediction: str, options: dict[str, object]
) -> tuple[list[Row], Points]:
    """The rows on the points reversed, the step from sigma = 0 by a solver that can take it."""
    up = points.at(slice(None, None, -1))
    if float(up.sigma[0]) > 0:
        return entry.rows(schedule, up, prediction, **options), up
    up = up._replace(t=np.append(schedule.least_time(prediction), up.t[1:]))
    finite = finite_at_zero(schedule, prediction)
    if finite and entry.from_clean:
        return entry.rows(schedule, up, prediction, **options), up
    first, rest = up.at(slice(2)), up.at(slice(1, None))
    rows = (midpoint if finite and entry.order > 1 else ddim)(schedule, first, prediction)
    return rows + (entry.rows(schedule, rest, prediction, **options) if len(rest.t) > 1 else []), up
