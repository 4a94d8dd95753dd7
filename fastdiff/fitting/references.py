"""The reference samples that a fit is judged by: the model's own, by a plan of so many steps that it has converged."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from ..plans.build import plan
from ..plans.plan import Plan
from ..plans.schedule import Points, Schedule
from .budget import Exhausted, clock
from .files import load_json, load_tensors, save_json, save_tensors
from .target import FitTarget
from .trajectory import Trajectory, concatenated

Contestant = tuple[str, dict[str, Any], str]  # solver, its options, grid
CONTESTANTS: tuple[Contestant, ...] = tuple(
    (solver, options, grid)
    for solver, options in (("unipc", {"order": 3}), ("dpm_solver_3m_exact", {}))
    for grid in ("quadratic", "logsnr", "time", "karras")
)
PROBE_SAMPLES = 4  # on which convergence is checked
FIRST_STEPS, MIN_STEPS, MAX_STEPS = 10, 40, 640
FINALISTS = 2  # contestants that go on to twice the steps
SAVE_INTERVAL = 20.0  # seconds, so that a killed process loses no more


def distances(x: Tensor, exact: Tensor) -> Tensor:
    """[N] root mean square difference of each sample, float64."""
    return (x.double() - exact.double()).flatten(1).square().mean(1).sqrt()


def check_model(target: FitTarget, schedule: Schedule, prediction: str) -> list[float]:
    """The root mean square of a few samples by a cheap plan, which tells one model from another.

    Raises ValueError where they hold NaN or are not the same a second time.
    """
    table = _plan(*CONTESTANTS[0], schedule, prediction, 3)
    places = torch.arange(min(PROBE_SAMPLES, len(target.noise)))
    first, second = (target.draw(table, places) for _ in range(2))
    _require_finite(first)
    gap = float(distances(first, second).max())
    # What reductions in another order leave is far below this; dropout or fresh noise is far above.
    if gap > 1e-3 * float(first.double().square().mean().sqrt()):
        raise ValueError(
            f"model: the same noise gave samples that differ by {gap:.3g}; a plan can only be fitted to a deterministic"
            " model (call model.eval(), fix its noise)"
        )
    return distances(first, torch.zeros_like(first)).tolist()


class ReferenceSampler:
    """The plan whose samples count as converged, and those samples [N, ...] of all noises.

    Both are kept in the folder, as the fit's of that name, and what is there is not drawn again.
    """

    def __init__(self, target: FitTarget, folder: Path | None, fit: str) -> None:
        self.target, self.folder, self.fit = target, folder, fit

    def find_plan(self, schedule: Schedule, prediction: str, tolerance: float) -> Plan:
        """The converged plan. Raises Exhausted where the budget ends before it is found."""
        kept = None if self.folder is None else load_json(self.folder / "teacher.json", self.fit)
        if kept is not None:
            return Plan.from_dict(kept)
        table = converged(self.target, schedule, prediction, tolerance)
        if self.folder is not None:
            save_json(self.folder / "teacher.json", self.fit, table.to_dict())
        return table

    def draw_references(self, table: Plan, first: Tensor, progress: bool) -> Tensor:
        """The samples [N, ...], of which the `first` ones are known, from their trajectories.

        Raises Exhausted where the budget ends first; what is drawn by then is kept.
        """
        drawn = self._kept() or [first.to(self.target.noise.dtype).cpu()]
        done, total = sum(map(len, drawn)), len(self.target.noise)
        bar = tqdm(total=total, initial=done, unit="sample", desc="teacher", disable=not progress)
        kept, saved = clock(), done
        try:
            for part in self.target.parts(torch.arange(done, total)):
                x = self.target.draw(table, part).cpu()
                _require_finite(x)
                drawn.append(x)
                bar.update(len(part))
                if clock() - kept > SAVE_INTERVAL:
                    kept, saved = clock(), self._keep(drawn, saved)
        finally:
            bar.close()
            self._keep(drawn, saved)
        return torch.cat(drawn).to(self.target.noise.device)

    def draw_trajectory(self, table: Plan, count: int) -> Trajectory:
        """The runs of the first samples. Raises Exhausted where the budget ends before the first batch is drawn."""
        path = None if self.folder is None else self.folder / "trajectory.safetensors"
        saved = None if path is None else load_tensors(path, self.fit)
        if saved is not None and len(saved[0]["states"][0]) >= count:
            tensors = {name: value.to(self.target.noise.device) for name, value in saved[0].items()}
            known = Points(*tensors["points"].cpu().numpy())
            return Trajectory(known, tensors["states"][:, :count], tensors["data"][:, :count])
        drawn: list[Trajectory] = []
        try:
            for part in self.target.parts(torch.arange(count)):
                drawn.append(Trajectory(*self.target.trace(table, part)))
                _require_finite(drawn[-1].end)
        except Exhausted:
            if not drawn:
                raise
        whole = concatenated(drawn)
        if path is not None and len(whole) == count:
            points = torch.from_numpy(np.array(whole.points))
            tensors = {"points": points, "states": whole.states.contiguous(), "data": whole.data.contiguous()}
            save_tensors(path, self.fit, tensors, {})
        return whole

    def _kept(self) -> list[Tensor]:
        path = None if self.folder is None else self.folder / "teacher.safetensors"
        saved = None if path is None else load_tensors(path, self.fit)
        return [] if saved is None else [saved[0]["x0"]]

    def _keep(self, drawn: list[Tensor], saved: int) -> int:
        """Write all there is, where that is more than what is written; how many samples that is."""
        count = sum(map(len, drawn))
        if self.folder is not None and count > saved:
            save_tensors(self.folder / "teacher.safetensors", self.fit, {"x0": torch.cat(drawn).contiguous()}, {})
        return count


def converged(target: FitTarget, schedule: Schedule, prediction: str, tolerance: float) -> Plan:
    """A plan that agrees with itself at half the steps, to `tolerance` of the samples' size in the median.

    Several solvers and grids compete at few steps; the best ones go on with twice as many, until one agrees. Raises
    ValueError where none does.
    """
    places = torch.arange(min(PROBE_SAMPLES, len(target.noise)))
    drawn = [(c, _drawn(target, c, schedule, prediction, FIRST_STEPS, places)) for c in CONTESTANTS]
    running = [(contestant, x) for contestant, x in drawn if x is not None]
    steps, change = FIRST_STEPS, math.inf
    while running and steps < MAX_STEPS:
        steps *= 2
        found = []
        for contestant, coarse in running:
            fine = _drawn(target, contestant, schedule, prediction, steps, places)
            assert fine is not None  # as with fewer steps
            # The median: a few samples near a boundary between two basins never settle.
            change = float(distances(coarse, fine).median() / fine.double().square().mean().sqrt())
            found.append((math.inf if math.isnan(change) else change, contestant, fine))
        found.sort(key=lambda f: f[0])
        change, best, _ = found[0]
        if change < tolerance and steps >= MIN_STEPS:
            return _plan(*best, schedule, prediction, steps)
        running = [(contestant, fine) for _, contestant, fine in found[:FINALISTS]]
    raise ValueError(
        f"tolerance: halving {steps} steps still changes the samples by {change:.2g} of their size, expected less"
        f" than {tolerance:g}; a model in half precision or one that jumps in t may need a larger tolerance"
    )


def _drawn(
    target: FitTarget, contestant: Contestant, schedule: Schedule, prediction: str, steps: int, places: Tensor
) -> Tensor | None:
    """The samples, or None where this schedule or prediction is not for this solver and grid."""
    try:
        table = _plan(*contestant, schedule, prediction, steps)
    except ValueError:
        return None
    return target.draw(table, places)


def _plan(solver: str, options: dict[str, Any], grid: str, schedule: Schedule, prediction: str, steps: int) -> Plan:
    return plan(solver, schedule, steps, grid=grid, prediction=prediction, **options)


def _require_finite(x: Tensor) -> None:
    if not torch.isfinite(x).all():
        raise ValueError("model: its samples hold NaN or infinity")
