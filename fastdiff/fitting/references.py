"""The reference samples that a fit is judged by: the model's own, by a plan of so many steps that it has converged."""

from __future__ import annotations

import itertools
import math
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from ..plans.build import plan
from ..plans.plan import Plan
from ..plans.schedule import Schedule
from .budget import clock
from .folder import Folder
from .journal import STAGE_FILES
from .target import FitTarget

Contestant = tuple[str, dict[str, Any], str]  # solver, its options, grid
# On each of eleven problems the best of them at 20 steps was one of the two that agreed best.
CONTESTANTS: tuple[Contestant, ...] = (
    ("unipc", {"order": 3}, "quadratic"),
    ("adams_moulton", {"order": 4}, "power"),
    ("dpm_solver_3m_exact", {}, "logsnr"),
)
PROBE_SAMPLES = 4  # on which convergence is checked
FIRST_STEPS, MAX_STEPS = 20, 640
SAVE_INTERVAL = 20.0  # seconds, so that a killed process loses no more


def distances(x: Tensor, exact: Tensor) -> Tensor:
    """[N] root mean square difference of each sample, float64."""
    return (x.double() - exact.double()).flatten(1).square().mean(1).sqrt()


def check_model(target: FitTarget, schedule: Schedule, prediction: str) -> list[float]:
    """The root mean square of a few samples by a cheap plan, which tells one model from another.

    Finds out, too, whether the model reads one time for all samples of a call.

    Raises ValueError where they hold NaN or are not the same a second time.
    """
    table = _plan(*CONTESTANTS[0], schedule, prediction, 3)
    places = torch.arange(min(PROBE_SAMPLES, len(target.noise)))
    target.budget.check()
    first = target.draw_alone(table, places)
    require_finite(first)
    target.budget.lap()  # the first calls of a model may compile, tune and allocate
    second = target.draw_alone(table, places)
    gap = float(distances(first, second).max())
    # What reductions in another order leave is far below this; dropout or fresh noise is far above.
    if gap > 1e-3 * float(first.double().square().mean().sqrt()):
        raise ValueError(
            f"model: the same noise gave samples that differ by {gap:.3g}; a plan can only be fitted to a deterministic"
            " model (call model.eval(), fix its noise)"
        )
    target.one_time = target.one_time or _reads_one_time(target, table)
    return distances(first, torch.zeros_like(first)).tolist()


def _reads_one_time(target: FitTarget, table: Plan) -> bool:
    """Whether two samples at two times get other outputs than each has at its own: many models look at t[0] alone."""
    if target.batch == 1:
        return False
    places = torch.arange(2)
    times = torch.tensor([table.rows[0].t, table.rows[-1].t], dtype=torch.float64)
    x = target.started(table, places, None)
    one, other, both = (target.output_alone(x, times[each], places) for each in ([0, 0], [1, 1], [0, 1]))
    apart = torch.stack([one[0], other[1]])
    return float(distances(both, apart).max()) > 1e-3 * float(apart.double().square().mean().sqrt())


class ReferenceSampler:
    """The plan whose samples count as converged, and those samples [N, ...] of all noises.

    Both are kept in the folder, and what is there is not drawn again.
    """

    def __init__(self, target: FitTarget, folder: Folder) -> None:
        self.target, self.folder = target, folder

    def find_plan(self, schedule: Schedule, prediction: str, tolerance: float) -> Plan:
        """The converged plan. Raises Exhausted where the budget ends before it is found."""
        if kept := self.known_plan():
            return kept
        table = converged(self.target, schedule, prediction, tolerance)
        self.folder.save_json("teacher.json", table.to_dict())
        return table

    def known_plan(self) -> Plan | None:
        """The converged plan, where the folder has it."""
        kept = self.folder.load_json("teacher.json")
        return None if kept is None else Plan.from_dict(kept)

    def draw_references(self, table: Plan, first: Tensor, progress: bool) -> Tensor:
        """The samples [N, ...], of which the `first` ones are known, from their trajectories.

        Raises Exhausted where the budget ends first; what is drawn by then is kept.
        """
        folder = self.folder.of_plan(table)
        kept = folder.load_tensors("teacher.safetensors")
        drawn = [first.to(self.target.noise.dtype).cpu() if kept is None else kept[0]["x0"]]
        done, total = len(drawn[0]), len(self.target.noise)
        bar = tqdm(total=total, initial=done, unit="sample", desc="teacher", disable=not progress)
        kept_at, saved = clock(), done
        try:
            for part in self.target.parts(torch.arange(done, total)):
                x = self.target.draw(table, part).cpu()
                require_finite(x)
                drawn.append(x)
                bar.update(len(part))
                if clock() - kept_at > SAVE_INTERVAL:
                    kept_at, saved = clock(), _keep(folder, drawn, saved)
        finally:
            bar.close()
            _keep(folder, drawn, saved)
        return torch.cat(drawn).to(self.target.noise.device)

    def require_sound(self, stages: Folder) -> None:
        """Raises ValueError naming every file, here or among the `stages`, that is damaged or another fit's."""
        found = self.folder.faults("teacher.json")
        if not found and (table := self.known_plan()) is not None:
            found += self.folder.of_plan(table).faults("trajectory-*.safetensors", "teacher.safetensors")
        found += stages.faults(*STAGE_FILES)
        if found:
            raise ValueError("; ".join(found))


def _keep(folder: Folder, drawn: list[Tensor], saved: int) -> int:
    """Write all there is, where that is more than what is written; how many samples that is."""
    count = sum(map(len, drawn))
    if count > saved:
        folder.save_tensors("teacher.safetensors", {"x0": torch.cat(drawn).contiguous()}, {})
    return count


def converged(target: FitTarget, schedule: Schedule, prediction: str, tolerance: float) -> Plan:
    """A plan that agrees with itself at half the steps, to `tolerance` of the samples' size in the median.

    Of several solvers and grids the two go on that agree best at few steps, then the one of them that changes least
    with twice as many, until it changes no more. Raises ValueError where it never does.
    """
    places = torch.arange(min(PROBE_SAMPLES, len(target.noise)))

    def drawn(contestant: Contestant, steps: int) -> Tensor:
        return target.draw(_plan(*contestant, schedule, prediction, steps), places)

    steps, change = FIRST_STEPS, math.inf
    running = _agreeing([(c, drawn(c, steps)) for c in contestants(schedule, prediction)])
    while running and steps < MAX_STEPS:
        steps *= 2
        found = []
        for contestant, coarse in running:
            fine = drawn(contestant, steps)
            change = _gap(coarse, fine)
            if change < tolerance:
                return _plan(*contestant, schedule, prediction, steps)
            found.append((change, (contestant, fine)))
        change, leader = min(found, key=lambda f: f[0])
        running = [leader]
    raise ValueError(
        f"tolerance: halving {steps} steps still changes the samples by {change:.2g} of their size, expected less"
        f" than {tolerance:g}; a model in half precision or one that jumps in t may need a larger tolerance"
    )


def _agreeing(drawn: list[tuple[Contestant, Tensor]]) -> list[tuple[Contestant, Tensor]]:
    """The two whose samples are closest to one another; all where there are no more."""
    pairs = itertools.combinations(drawn, 2)
    return list(min(pairs, key=lambda pair: _gap(pair[0][1], pair[1][1]), default=drawn))


def _gap(x: Tensor, exact: Tensor) -> float:
    """The median distance, as a share of the samples' size; infinite where there are none.

    The median, because a few samples near a boundary between two basins never settle.
    """
    gap = float(distances(x, exact).median() / exact.double().square().mean().sqrt())
    return math.inf if math.isnan(gap) else gap


def contestants(schedule: Schedule, prediction: str) -> list[Contestant]:
    """Those that can run on this schedule and prediction."""
    found = []
    for contestant in CONTESTANTS:
        with suppress(ValueError):
            _plan(*contestant, schedule, prediction, FIRST_STEPS)
            found.append(contestant)
    return found


def _plan(solver: str, options: dict[str, Any], grid: str, schedule: Schedule, prediction: str, steps: int) -> Plan:
    return plan(solver, schedule, steps, grid=grid, prediction=prediction, **options)


def require_finite(x: Tensor) -> None:
    if not torch.isfinite(x).all():
        raise ValueError("model: its samples hold NaN or infinity")
