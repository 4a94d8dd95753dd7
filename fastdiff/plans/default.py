"""What `fastdiff.plan(None, schedule, evaluations)` is: the solver and the grid without a fit, by measurement.

Of 4 to 9, 10 or 19 evaluations a table of numbers (`tabulated`), found by `python -m bench.defaults_search` on mixtures
and networks; of others the solver `adams_moulton` on the grid "power" or "logistic". `python -m bench.defaults`
measures it on other mixtures and on the networks from other noise, against every solver of the catalogue on every grid,
the simple rules and other packages' own samplers, and writes bench/results/defaults.md. The lines below were chosen by
what is measured there.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .default_tables import GUIDED as GUIDED_TABLES
from .default_tables import TABLES
from .schedule import Schedule
from .schedule_argument import require_schedule
from .tabulated import Table

SOLVER = "adams_moulton"
TABULATED = "tabulated"


class Default(NamedTuple):
    """Of runs without a table, with up to so many evaluations: the order of `adams_moulton`, the grid and its rho.

    centered: whether the grid's levels are those of data of the spread that the schedule is made for (`spread_of`).
    """

    evaluations: float
    order: int
    rho: float
    grid: str = "power"
    centered: bool = False


ANY = float("inf")
FLOW = (Default(3, 2, 1.35), Default(5, 2, 1.5), Default(11, 3, 1.75), Default(ANY, 4, 1.75))
# Denser at high noise too, as data with large structures ask. High orders pay later on networks.
VP = (
    Default(3, 2, 1.35),
    Default(6, 2, 1.5, "logistic"),
    Default(19, 3, 1.4, "logistic", centered=True),
    Default(ANY, 4, 2.0, "logistic", centered=True),
)
VE = (Default(3, 3, 1.2), Default(6, 2, 1.5, "logistic"), Default(ANY, 3, 1.5, "logistic"))
# Guidance makes the problem stiff.
GUIDED_FLOW = (Default(9, 2, 1.75), Default(ANY, 3, 1.5))
GUIDED_DIFFUSION = (Default(7, 2, 1.5), Default(9, 3, 1.3, "logistic"), Default(ANY, 3, 1.5, "logistic"))
TABLE = {"flow": FLOW, "vp": VP, "ve": VE}
GUIDED = {"flow": GUIDED_FLOW, "vp": GUIDED_DIFFUSION, "ve": GUIDED_DIFFUSION}


def default_plan(schedule: Schedule, evaluations: object, guided: bool) -> Default:
    """The line of the table. evaluations: of the model, at least 1. guided: by a scale well above 1.

    Raises ValueError or TypeError naming the argument.
    """
    require_schedule(schedule)
    if isinstance(evaluations, bool) or not isinstance(evaluations, (int, np.integer)) or evaluations < 1:
        raise ValueError(f"steps: expected a whole number >= 1 of model evaluations, got {evaluations!r}")
    if not isinstance(guided, bool):
        raise TypeError(f"guided: expected True or False, got {guided!r}")
    table = (GUIDED if guided else TABLE)[schedule.kind]
    return next(line for line in table if evaluations <= line.evaluations)


def default_table(
    schedule: Schedule, evaluations: int | None, guided: bool, start: float, final_sigma: str
) -> Table | None:
    """The numbers of a whole run from pure noise to clean data, where there are any."""
    if evaluations is None or (start, final_sigma) != (1.0, "zero"):
        return None
    return (GUIDED_TABLES if guided else TABLES[schedule.kind]).get(evaluations)


def check_alone(given: dict[str, object]) -> None:
    """Raises ValueError for what belongs to a single solver or grid, or is not known for none."""
    for name in given:
        raise ValueError(f"{name}: the default (solver=None) chooses its own; name a solver to give {name}")
