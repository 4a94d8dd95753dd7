"""The solvers by name, and `plan`, which turns a name into a table."""

from __future__ import annotations

import difflib

import numpy as np
from numpy.typing import ArrayLike

from ..keywords import meant, options_of
from .grid import make_grid
from .plan import Plan
from .row import Row
from .schedule import Points, Schedule, require_schedule
from .solvers.ancestral import ddim
from .solvers.entries import SOLVERS, Solver
from .solvers.karras import finite_at_zero, midpoint

_BY_NAME = {solver.name: solver for solver in SOLVERS}
_GRID_SUFFIXES = ("karras", "exponential", "ays")


class Catalogue(tuple[Solver, ...]):
    """Solvers, which print as a table."""

    def __str__(self) -> str:
        cells = [("name", "order", "calls a step", "noise", "paper", "also called")]
        cells += [
            (s.name, f"{s.order}", f"{s.nfe}", "yes" if s.stochastic else "no", s.paper, ", ".join(s.aliases))
            for s in self
        ]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in cells)

    __repr__ = __str__


def solvers() -> Catalogue:
    """The catalogue: name, order, evaluations a step, paper and aliases of every solver; it prints as a table."""
    return Catalogue(SOLVERS)


def _plain(name: str) -> str:
    return name.lower().replace("++", "pp").replace("-", "_").replace(" ", "_").removeprefix("k_")


_ALIASES = {_plain(alias): solver for solver in SOLVERS for alias in (solver.name, *solver.aliases)}


def find_solver(name: str) -> tuple[Solver, str | None]:
    """The solver of that name or alias, and the grid that the alias names ("DPM++ 2M Karras"), or None.

    Raises ValueError with the nearest names.
    """
    if not isinstance(name, str):
        raise TypeError(f"solver: expected a name, such as 'dpmpp_2m', got {name!r}")
    plain = _plain(name)
    head, _, tail = plain.rpartition("_")
    if tail in _GRID_SUFFIXES and head in _ALIASES:
        return _ALIASES[head], tail
    if plain in _ALIASES:
        return _ALIASES[plain], None
    begin = [solver for solver in SOLVERS if solver.name.startswith(plain)]
    begin = [solver.name for solver in sorted(begin, key=lambda solver: (solver.stochastic, solver.nfe))]
    near = begin[:4] or difflib.get_close_matches(plain, _ALIASES, n=3, cutoff=0.4) or list(_BY_NAME)
    raise ValueError(f"solver: {name!r} is not known; did you mean {', '.join(near)}? fastdiff.solvers() lists all")


def plan(
    solver: str,
    schedule: Schedule,
    steps: int | None = None,
    *,
    grid: str | ArrayLike | None = None,
    prediction: str | None = None,
    final_sigma: str = "zero",
    sigmas: ArrayLike | None = None,
    start: float = 1.0,
    rho: float = 7.0,
    steps_offset: int = 0,
    log_snr_min: float = -np.inf,
    invert: bool = False,
    **options: object,
) -> Plan:
    """The table of a run: `steps` steps of `solver` on `schedule`.

    solver: a name of `solvers()` or an alias ("DPM++ 2M Karras"). steps: grid intervals; one model evaluation each, or
    as many as the solver's `nfe` says. prediction: what the model gives: "epsilon", "sample", "v_prediction",
    "flow_prediction" or "score"; where not given, "flow_prediction" on flow schedules and "epsilon" on others.
    grid, final_sigma, sigmas, start, rho, steps_offset, log_snr_min: see `fastdiff.plans.grid.make_grid`; grid is
    "time" where not given.
    invert: run the grid from its clean end to its noisy one, with an ODE solver: `sample(model, plan, image)` is then
    the noisy x that the solver would bring back to the image; over `init_scale` of the plan that is not inverted it is
    the image's noise. The step from sigma = 0 is of first order and asks the model at the schedule's least time; of
    velocities on flow schedules, which are finite there, it is the solver's own or the midpoint rule's, with one
    evaluation more.
    options: the solver's own, such as eta, s_noise, order, correction, variant, lower_order_final, r. Solvers that
    extrapolate x0 in lambda take max_ratio: a step more than so many times as long as the one before is of first
    order, by default 2.5 times; math.inf is the method as published.
    Raises ValueError or TypeError naming the argument.
    """
    entry, named_grid = find_solver(solver)
    require_schedule(schedule)
    _check_names(entry, options)
    prediction = schedule.default_prediction if prediction is None else prediction
    grid = grid if grid is not None else named_grid or "time"
    points = make_grid(
        schedule, steps, grid, final_sigma=final_sigma, sigmas=sigmas, start=start, rho=rho,
        steps_offset=steps_offset, log_snr_min=log_snr_min, prediction=prediction,
    )  # fmt: skip
    _check_values(entry, options, len(points.t) - 1)
    if invert:
        if entry.stochastic or options.get("eta") or options.get("s_churn"):
            raise ValueError(f"invert: expected an ODE solver, got {entry.name} with noise")
        rows, points = _inverted(entry, schedule, points, prediction, options)
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


def _check_names(entry: Solver, options: dict[str, object]) -> None:
    known = options_of(entry.build)
    for name in options:
        if name not in known:
            option = meant(name, ("steps", *options_of(plan), *known))
            hint = f" (did you mean {option}?)" if option else ""
            raise ValueError(f"{name}: {entry.name} has no such option{hint}; it has {', '.join(known) or 'none'}")


def _check_values(entry: Solver, options: dict[str, object], steps: int) -> None:
    for name, value in options.items():
        if name == "order" and value not in range(1, entry.max_order + 1):
            raise ValueError(f"order: expected a whole number from 1 to {entry.max_order}, got {value!r}")
        if name == "order" and entry.nfe == 1 and value > steps:
            raise ValueError(f"order: expected at most the number of steps, {steps}; got {value!r}")
        if name in ("eta", "s_noise", "max_churn") and not (isinstance(value, (int, float)) and value >= 0):
            raise ValueError(f"{name}: expected a number >= 0, got {value!r}")
        if name == "max_ratio" and not (isinstance(value, (int, float)) and value > 0):
            raise ValueError(f"max_ratio: expected a number > 0, got {value!r}")
        if name in ("r", "r1", "r2") and not (isinstance(value, (int, float)) and 0 < value <= 1):
            raise ValueError(f"{name}: expected a number in (0, 1], got {value!r}")
        if name == "correction" and value not in ("midpoint", "heun"):
            raise ValueError(f"correction: expected midpoint or heun, got {value!r}")
        if name == "form" and value not in ("data", "noise"):
            raise ValueError(f"form: expected data or noise, got {value!r}")
