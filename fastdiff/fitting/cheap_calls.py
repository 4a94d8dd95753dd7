"""A model's cheap calls, before a fit makes use of them: whether it has any, which they are, and what they cost."""

from __future__ import annotations

import time

import torch
from torch import Tensor

from ..plans.plan import Plan
from ..plans.schedule import Schedule
from ..sampling.model import Model
from ..sampling.partial import Here, has_cheap_calls
from . import convergence
from .journal import Journal
from .partial_run import PartialRun
from .references import require_finite
from .search import first_plan
from .target import FitTarget
from .trajectory import differ, distances

ROWS = 3  # of the plans that are asked: two full ones make a line, along which the third goes on
REPEATS = 5  # of each call that is timed


def check(model: Model, cheap: float | None, method: str) -> bool:
    """Whether the model has cheap calls. Raises TypeError or ValueError naming the argument where it may not."""
    able = has_cheap_calls(model)
    if cheap is not None and not able:
        raise TypeError("cheap: the model has no cheap calls; pass fastdiff.cached(model)")
    if cheap is not None and not 0 < cheap < 1:
        raise ValueError(f"cheap: expected what a cheap call costs, in (0, 1) of a full one, got {cheap}")
    if able and method == "full":
        raise ValueError(
            "method: 'full' fits plans of full rows alone, and this model has cheap calls; pass the model without them,"
            " or method='forward'"
        )
    return able


def told(target: FitTarget, schedule: Schedule, prediction: str, cheap: float | None) -> dict[str, object]:
    """What a folder has to be claimed with: the cost as it was given, and what tells other cheap calls.

    That is the root mean square of a few samples by a plan with a cheap row. Raises ValueError where they hold NaN.
    Finds out, too, whether samples at different places may share cheap calls.
    """
    places = torch.arange(min(convergence.PROBE_SAMPLES, len(target.noise)))
    x = target.draw_alone(first_plan(schedule, prediction, ROWS).with_calls(["full", "full", "cheap"]), places)
    require_finite(x)
    target.cheap_apart = target.one_time or not _mixes(target, first_plan(schedule, prediction, 1 + ROWS))
    return {"cheap": cheap, "cheap_calls": distances(x, torch.zeros_like(x)).tolist()}


@torch.no_grad()
def _mixes(target: FitTarget, plan: Plan) -> bool:
    """Whether two samples in one run, each a row behind the other, get the outputs that each has in a run of its own.

    They do not where a model makes other batches of its samples, as one that guides itself.
    """
    if target.batch == 1:
        return False
    x = target.noise[:2]

    def outputs(samples: list[int]) -> list[Tensor]:
        run, found = PartialRun(target, torch.tensor(samples), alone=True), []
        for i, call in enumerate(("full", "full", "cheap")):
            rows = [plan.rows[i + sample] for sample in samples]
            t, log_snr = (torch.tensor([getattr(r, n) for r in rows], dtype=torch.float64) for n in ("t", "log_snr"))
            found.append(run.output(x[samples], t, Here(i, call, log_snr)).double())
        return found

    apart = [torch.cat(pair) for pair in zip(outputs([0]), outputs([1]), strict=True)]
    try:
        both = outputs([0, 1])
    except RuntimeError:  # of tensors that do not go together
        return False
    return not any(differ(a, b) for a, b in zip(both, apart, strict=True))


def kept_share(target: FitTarget, schedule: Schedule, prediction: str, journal: Journal) -> float:
    """What a cheap call costs, as it was measured the first time: a clock says something else every time."""
    kept = journal.folder.load_json("cheap.json")
    if kept is None:
        kept = {"cost": share(target, first_plan(schedule, prediction, ROWS))}
        journal.folder.save_json("cheap.json", kept)
    journal.note("cost", f"a cheap call costs {kept['cost']:.2f} of a full one")
    return float(kept["cost"])


@torch.no_grad()
def share(target: FitTarget, plan: Plan) -> float:
    """The time of a cheap call over that of a full one, the shortest of several of each.

    plan: says where, by its last row. Of several processes the slowest one counts.
    """
    part = torch.arange(min(target.together, len(target.noise)))
    run, best = PartialRun(target, part), {"full": float("inf"), "cheap": float("inf")}

    def seconds(i: int, call: str) -> float:
        row = plan.rows[i]
        t, log_snr = (torch.full((len(part),), value, dtype=torch.float64) for value in (row.t, row.log_snr))
        began = time.perf_counter()
        run.output(target.noise[part], t, Here(i, call, log_snr)).flatten()[:1].cpu()  # waits for the device
        return time.perf_counter() - began

    for i in range(plan.nfe):
        seconds(i, "full")
    for _ in range(REPEATS):
        best = {call: min(least, seconds(plan.nfe - 1, call)) for call, least in best.items()}
    return target.ranks.largest(best["cheap"] / best["full"])
