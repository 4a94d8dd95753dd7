"""The solvers by name, and `plan`, which turns a name into a table."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import ArrayLike

from .grid import make_grid
from .plan import Plan, Row
from .schedule import Schedule
from .solvers.ancestral import ddim
from .solvers.exponential import multistep, singlestep
from .solvers.karras import dpm_2, dpm_2_ancestral, heun
from .solvers.sde import dpmpp_sde
from .solvers.unipc import unipc


@dataclass(frozen=True)
class Solver:
    """One entry of the catalogue.

    order: of convergence on the ODE; for stochastic solvers, of the mean and variance (weak order), at most 2 because
    differences of outputs carry the noise of earlier steps. nfe: model evaluations a step. aliases: names it goes by
    elsewhere. build: (schedule, points, prediction, options) -> rows.
    """

    name: str
    build: Callable[..., list[Row]]
    order: int
    nfe: int
    paper: str
    aliases: tuple[str, ...] = ()
    stochastic: bool = False


_DDIM = "Song et al. 2021, arXiv 2010.02502"
_DDPM = "Ho et al. 2020, arXiv 2006.11239"
_EDM = "Karras et al. 2022, arXiv 2206.00364"
_DPM = "Lu et al. 2022, arXiv 2206.00927"
_DPMPP = "Lu et al. 2022, arXiv 2211.01095"
_UNIPC = "Zhao et al. 2023, arXiv 2302.04867"

_SOLVERS = (
    Solver("ddim", ddim, 1, 1, _DDIM, ("DDIMScheduler", "dpm_solver_1", "dpmpp_1")),
    Solver("ddpm", partial(ddim, eta=1.0), 1, 1, _DDPM, ("DDPMScheduler",), True),
    Solver("euler", ddim, 1, 1, _EDM, ("EulerDiscreteScheduler", "FlowMatchEulerDiscreteScheduler")),
    Solver(
        "euler_ancestral", partial(ddim, eta=1.0), 1, 1, _EDM, ("Euler a", "EulerAncestralDiscreteScheduler"), True
    ),
    Solver("heun", heun, 2, 2, _EDM, ("HeunDiscreteScheduler", "FlowMatchHeunDiscreteScheduler")),
    Solver("dpm_2", dpm_2, 2, 2, _EDM, ("DPM2", "KDPM2DiscreteScheduler")),
    Solver("dpm_2_ancestral", dpm_2_ancestral, 2, 2, _EDM, ("DPM2 a", "KDPM2AncestralDiscreteScheduler"), True),
    Solver("dpm_solver_2s", partial(singlestep, order=2, form="noise"), 2, 2, _DPM, ("DPM-Solver-2",)),
    Solver("dpm_solver_3s", partial(singlestep, order=3, form="noise"), 3, 3, _DPM, ("DPM-Solver-3",)),
    Solver("dpm_solver_2m", partial(multistep, order=2, form="noise"), 2, 1, _DPM),
    Solver("dpm_solver_3m", partial(multistep, order=3, form="noise"), 2, 1, _DPM),
    Solver("dpm_solver_3m_exact", partial(multistep, order=3, form="noise", exact=True), 3, 1, _DPM),
    Solver("dpmpp_2s", partial(singlestep, order=2), 2, 2, _DPMPP, ("DPM++ 2S", "DPMSolverSinglestepScheduler")),
    Solver("dpmpp_3s", partial(singlestep, order=3), 3, 3, _DPMPP, ("DPM++ 3S",)),
    Solver("dpmpp_2m", partial(multistep, order=2), 2, 1, _DPMPP, ("DPM++ 2M", "DPMSolverMultistepScheduler")),
    Solver("dpmpp_3m", partial(multistep, order=3), 2, 1, _DPMPP, ("DPM++ 3M",)),
    Solver("dpmpp_3m_exact", partial(multistep, order=3, exact=True), 3, 1, _DPMPP),
    Solver("dpmpp_sde", dpmpp_sde, 2, 2, _DPMPP, ("DPM++ SDE", "DPMSolverSDEScheduler"), True),
    Solver("dpmpp_2m_sde", partial(multistep, order=2, eta=1.0), 2, 1, _DPMPP, ("DPM++ 2M SDE",), True),
    # k-diffusion's second step, the one with a single earlier output, is in the Taylor form.
    Solver(
        "dpmpp_3m_sde", partial(multistep, order=3, eta=1.0, correction="heun"), 2, 1, _DPMPP, ("DPM++ 3M SDE",), True
    ),
    Solver("unipc", unipc, 3, 1, _UNIPC, ("UniPC", "uni_pc_bh2", "UniPCMultistepScheduler")),
    Solver("unipc_bh1", partial(unipc, variant="bh1"), 3, 1, _UNIPC, ("uni_pc",)),
)
_BY_NAME = {solver.name: solver for solver in _SOLVERS}
_GRID_SUFFIXES = ("karras", "exponential", "ays")


def solvers() -> tuple[Solver, ...]:
    """The catalogue: name, order, evaluations a step, paper and aliases of every solver."""
    return _SOLVERS


def _plain(name: str) -> str:
    return name.lower().replace("++", "pp").replace("-", "_").replace(" ", "_").removeprefix("k_")


_ALIASES = {_plain(alias): solver for solver in _SOLVERS for alias in (solver.name, *solver.aliases)}


def find_solver(name: str) -> tuple[Solver, str | None]:
    """The solver of that name or alias, and the grid that the alias names ("DPM++ 2M Karras"), or None.

    Raises ValueError with the nearest names.
    """
    plain = _plain(name)
    head, _, tail = plain.rpartition("_")
    if tail in _GRID_SUFFIXES and head in _ALIASES:
        return _ALIASES[head], tail
    if plain in _ALIASES:
        return _ALIASES[plain], None
    near = difflib.get_close_matches(plain, _ALIASES, n=3, cutoff=0.4) or list(_BY_NAME)
    raise ValueError(f"solver: {name!r} is not known; did you mean {', '.join(near)}? fastdiff.solvers() lists all")


def plan(
    solver: str,
    schedule: Schedule,
    steps: int | None = None,
    *,
    grid: str | ArrayLike | None = None,
    prediction: str = "epsilon",
    final_sigma: str = "zero",
    sigmas: ArrayLike | None = None,
    start: float = 1.0,
    rho: float = 7.0,
    steps_offset: int = 0,
    log_snr_min: float = -np.inf,
    **options: object,
) -> Plan:
    """The table of a run: `steps` steps of `solver` on `schedule`.

    solver: a name of `solvers()` or an alias ("DPM++ 2M Karras"). steps: grid intervals; one model evaluation each, or
    as many as the solver's `nfe` says. prediction: what the model gives: "epsilon", "sample", "v_prediction",
    "flow_prediction" or "score". grid, final_sigma, sigmas, start, rho, steps_offset, log_snr_min: see
    `fastdiff.grid.make_grid`; grid is "time" where not given.
    options: the solver's own, such as eta, s_noise, order, correction, variant, lower_order_final, r.
    Raises ValueError naming the argument.
    """
    entry, named_grid = find_solver(solver)
    grid = grid if grid is not None else named_grid or "time"
    points = make_grid(
        schedule, steps, grid, final_sigma=final_sigma, sigmas=sigmas, start=start, rho=rho,
        steps_offset=steps_offset, log_snr_min=log_snr_min,
    )  # fmt: skip
    _check_options(entry, options, len(points.t) - 1)
    rows = entry.build(schedule, points, prediction, **options)
    name = grid if isinstance(grid, str) and sigmas is None else "explicit"
    return Plan(tuple(rows), (float(points.alpha[-1]), float(points.sigma[-1])), prediction, entry.name, name)


def _check_options(entry: Solver, options: dict[str, object], steps: int) -> None:
    known = {
        n: p for n, p in inspect.signature(entry.build).parameters.items() if p.kind is inspect.Parameter.KEYWORD_ONLY
    }
    for name, value in options.items():
        if name not in known:
            raise ValueError(f"{name}: {entry.name} has no such option; it has {', '.join(known) or 'none'}")
        if name == "order" and value not in (1, 2, 3):
            raise ValueError(f"order: expected 1, 2 or 3, got {value!r}")
        if name == "order" and entry.nfe == 1 and value > steps:
            raise ValueError(f"order: expected at most the number of steps, {steps}; got {value!r}")
        if name in ("eta", "s_noise") and not (isinstance(value, (int, float)) and value >= 0):
            raise ValueError(f"{name}: expected a number >= 0, got {value!r}")
        if name in ("r", "r1", "r2") and not (isinstance(value, (int, float)) and 0 < value <= 1):
            raise ValueError(f"{name}: expected a number in (0, 1], got {value!r}")
        if name == "correction" and value not in ("midpoint", "heun"):
            raise ValueError(f"correction: expected midpoint or heun, got {value!r}")
        if name == "form" and value not in ("data", "noise"):
            raise ValueError(f"form: expected data or noise, got {value!r}")
