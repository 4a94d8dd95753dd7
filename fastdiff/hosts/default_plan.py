"""The default plan where a host says how strong the guidance is and how noisy the start, chosen by measurement.

`python -m bench.hosts stable_audio` measures it beside the host's samplers, with guidance and without.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from ..plans.build import plan
from ..plans.plan import Plan
from ..plans.schedule import Schedule

GUIDED, STRONG = 2.0, 4.0  # scales from which guidance is well above 1, and from which four steps are too few for it
RHO = 1.5


@functools.lru_cache(maxsize=32)
def default_plan(schedule: Schedule, evaluations: int, prediction: str, scale: float = 1.0) -> Plan:
    """From the schedule's greatest noise to data. scale: of guidance, 1 without.

    Strong guidance makes the ODE stiff: with up to 4 evaluations UniPC is then the best that does not blow up.
    """
    if scale > STRONG and evaluations <= 4:
        return plan("unipc", schedule, evaluations, grid="power", rho=RHO, prediction=prediction)
    guided = scale >= GUIDED and evaluations <= 5
    return plan(None, schedule, evaluations, prediction=prediction, guided=guided)


@functools.lru_cache(maxsize=32)
def partial_plan(schedule: Schedule, first: float, evaluations: int, prediction: str, scale: float = 1.0) -> Plan:
    """From data with noise added to data. first: its time as of a flow, sigma / (alpha + sigma), below 1.

    schedule: a flow, or EDM's up to that noise. Guidance asks for two orders, and for uniform times of few evaluations.
    """
    guided = scale >= GUIDED
    given: dict[str, Any] = {"prediction": prediction, "order": min(2, evaluations)}
    if schedule.kind == "ve" and not guided:
        return plan(None, schedule, evaluations, prediction=prediction)
    if schedule.kind == "ve" and evaluations > 4:
        return plan("adams_moulton", schedule, evaluations, grid="logistic", **given)
    levels = first * np.linspace(1, 0, evaluations + 1) ** (1.0 if guided else RHO)
    sigmas = levels if schedule.kind == "flow" else levels / (1 - levels)
    return plan("dpmpp_2m" if guided else "adams_moulton", schedule, sigmas=sigmas, **given)
