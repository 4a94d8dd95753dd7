"""The plan of diffusion policies where none is named, chosen by measurement (`python -m bench.hosts lerobot`).

Actions lie in a range that clip_sample bounds, [-1, 1] mostly, and so have a spread well below 1: what decides about
them is seen at lower noise than the default of `fastdiff.plan` expects of data of unit spread.
"""

from __future__ import annotations

from ...plans.build import plan as make_plan
from ...plans.default import TABULATED, default_plan
from ...plans.default_tables import TABLES
from ...plans.grid import make_grid
from ...plans.plan import Plan
from ...plans.schedule import Schedule
from ...plans.solvers.adams_moulton import adams_moulton
from ...plans.tabulated import points_of, tabulated

FEWEST = 4  # below it nothing is better than DDIM at diffusers' times
# The spread that actions are taken for: of up to 8 evaluations, and of more.
FEW, SPREADS = 8, (0.5, 0.25)


def default_for_actions(schedule: Schedule, evaluations: int, prediction: str) -> Plan:
    """4 to 9 or 10 evaluations by the table of flows, others by Adams-Moulton on a grid for data of that spread.

    Raises TypeError or ValueError naming the argument.
    """
    chosen = default_plan(schedule, evaluations, guided=False)
    if evaluations < FEWEST:
        return make_plan("ddim", schedule, evaluations, grid="leading", prediction=prediction)
    spread = SPREADS[evaluations > FEW]
    table = TABLES["flow"].get(evaluations)
    if table and (points := points_of(table, schedule, spread)):
        rows, name = tabulated(points, prediction, table.shares), TABULATED
        return Plan(tuple(rows), (1.0, 0.0), prediction, name, name, schedule.knots())
    points = make_grid(schedule, evaluations, "logistic", rho=chosen.rho, center=spread, prediction=prediction)
    rows = adams_moulton(schedule, points, prediction, order=chosen.order)
    return Plan(tuple(rows), (1.0, 0.0), prediction, "adams_moulton", "logistic", schedule.knots())
