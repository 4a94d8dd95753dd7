"""The reference samples that a fit is judged by: the model's own, by a plan of so many steps that it has converged."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from ..plans.build import plan
from ..plans.plan import Plan
from ..plans.schedule import Schedule
from .budget import clock
from .convergence import Converged, converged
from .folder import Folder
from .journal import STAGE_FILES
from .target import FitTarget
from .trajectory import differ, distances

SAMPLES = 2  # that tell one model from another
DRAWN = ("trajectory-*.safetensors", "teacher.safetensors")  # by the converged plan
SAVE_INTERVAL = 20.0  # seconds, so that a killed process loses no more


def check_model(target: FitTarget, schedule: Schedule, prediction: str) -> list[float]:
    """The root mean square of a few samples by a cheap plan, which tells one model from another.

    Finds out, too, whether the model reads one time for all samples of a call.

    Raises ValueError where they hold NaN or are not the same a second time.
    """
    table = plan("unipc", schedule, 3, grid="quadratic", prediction=prediction, order=3)
    places = torch.arange(SAMPLES)
    target.budget.check()
    first = target.draw_alone(table, places)
    require_finite(first)
    target.budget.lap()  # the first calls of a model may compile, tune and allocate
    second = target.draw_alone(table, places)
    if differ(second, first):
        gap = float(distances(second, first).max())
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
    places = torch.arange(SAMPLES)
    times = torch.tensor([table.rows[0].t, table.rows[-1].t], dtype=torch.float64)
    x = target.started(table, places, None)
    one, other, both = (target.output_alone(x, times[each], places) for each in ([0, 0], [1, 1], [0, 1]))
    apart = torch.stack([one[0], other[1]])
    return differ(both, apart)


class ReferenceSampler:
    """The plan whose samples count as converged, and those samples [N, ...] of all noises.

    Both are kept in the folder, and what is there is not drawn again.
    """

    def __init__(self, target: FitTarget, folder: Folder) -> None:
        self.target, self.folder = target, folder

    def find_plan(
        self, schedule: Schedule, prediction: str, evaluations: int, tolerance: float | None, memory: int
    ) -> Converged:
        """The converged plan for a fit of so many evaluations. Raises Exhausted where the budget ends before.

        One that was found for fewer may be too coarse; then what was drawn by it goes.
        """
        kept = self._kept()
        if kept is not None:
            known = Converged(Plan.from_dict(kept["plan"]), float(kept["change"]))
            if known.is_within(tolerance) or (tolerance is None and evaluations <= int(kept["evaluations"])):
                return known
        found = converged(self.target, schedule, prediction, evaluations, tolerance, memory)
        if kept is not None and kept["plan"] != found.plan.to_dict():
            self.folder.remove(*DRAWN)
        content = {"plan": found.plan.to_dict(), "change": found.change, "evaluations": evaluations}
        self.folder.save_json("teacher.json", content)
        return found

    @property
    def is_known(self) -> bool:
        """Whether the folder has a converged plan."""
        return self._kept() is not None

    def _kept(self) -> dict[str, Any] | None:
        return self.folder.load_json("teacher.json")

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
        if not found and (kept := self._kept()) is not None:
            found += self.folder.of_plan(Plan.from_dict(kept["plan"])).faults(*DRAWN)
        found += stages.faults(*STAGE_FILES)
        if found:
            raise ValueError("; ".join(found))


def _keep(folder: Folder, drawn: list[Tensor], saved: int) -> int:
    """Write all there is, where that is more than what is written; how many samples that is."""
    count = sum(map(len, drawn))
    if count > saved:
        folder.save_tensors("teacher.safetensors", {"x0": torch.cat(drawn).contiguous()}, {})
    return count


def require_finite(x: Tensor) -> None:
    if not torch.isfinite(x).all():
        raise ValueError("model: its samples hold NaN or infinity")
