"""What a fit has tried and kept, in memory and, where a folder is given, on disk: an interrupted fit goes on there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from ..plans.plan import Plan
from .descent import State
from .folder import Folder

SHOWN_INTERVAL = 1.0  # seconds from one report of a stage that goes on to the next
STAGE_FILES = (
    "cheap.json", "forward.json", "catalogue.json", "reuse.json", "cheap rows.json", "differences.json",
    "start *.safetensors", "descent *.safetensors",
)  # fmt: skip
HEADER = (
    f"{'stage':10s} {'plan':44s} {'NFE':>4s} {'mean':>9s} {'median':>9s} {'RMSE':>9s} {'seconds':>8s} {'calls':>9s}"
)


@dataclass(frozen=True)
class Trial:
    """One plan and its distances from the held-out converged samples, or a note, whose distances are NaN.

    Notes say what is ahead ("cost"), what it came to ("total"), and why a stage did not run or did not end.
    nfe: what a run costs, in full evaluations. seconds, evaluations: since the fit began.
    """

    stage: str
    name: str
    nfe: int
    mean: float
    median: float
    rmse: float
    seconds: float
    note: str = ""
    evaluations: int = 0

    def __str__(self) -> str:
        if self.note:
            return f"{self.stage:10s} {self.note}"
        numbers = " ".join(f"{value:9.5f}" for value in (self.mean, self.median, self.rmse))
        return (
            f"{self.stage:10s} {self.name[:44]:44s} {self.nfe:4d} {numbers} {self.seconds:8.1f} {self.evaluations:9d}"
        )


class Journal:
    """The best plan so far and the record of complete stages. report: called with trials, an earlier call's too.

    Of processes that share a fit, the first one reports.
    """

    def __init__(self, folder: Folder, report: Callable[[Trial], object] | None) -> None:
        self.folder = folder
        self.report = report if report is not None and folder.ranks.is_first else lambda trial: None
        self.best: tuple[Trial, Plan] | None = None
        self._shown = -SHOWN_INTERVAL

    def keep(self, trial: Trial, plan: Plan) -> None:
        """Keep a plan where none is better: the later one of two, whose weights are the more complete."""
        if self.best is None or trial.mean <= self.best[0].mean:
            self.best = trial, plan

    def show(self, trial: Trial) -> None:
        """Report a trial of a stage that goes on, at most one a second."""
        if trial.seconds - self._shown >= SHOWN_INTERVAL:
            self._shown = trial.seconds
            self.report(trial)

    def note(self, stage: str, text: str) -> None:
        """Report a line of text."""
        nan = float("nan")
        self.report(Trial(stage, "", 0, nan, nan, nan, nan, text))

    def finish(self, stage: str, trials: list[tuple[Trial, Plan]], extra: dict[str, object]) -> None:
        """Keep and report what a stage found, and write down that it is complete."""
        for trial, plan in trials:
            self.keep(trial, plan)
            self.report(trial)
        found = [{"trial": asdict(trial), "plan": plan.to_dict()} for trial, plan in trials]
        self.folder.save_json(f"{stage}.json", {"found": found, **extra})

    def finished(self, stage: str) -> dict[str, Any] | None:
        """The record of a complete stage, its trials reported and kept again; None where it has yet to run."""
        record = self.folder.load_json(f"{stage}.json")
        for found in record["found"] if record else ():
            trial = Trial(**found["trial"])
            self.keep(trial, Plan.from_dict(found["plan"]))
            self.report(trial)
        return record

    def save_state(self, stage: str, state: State, best: tuple[Trial, np.ndarray]) -> None:
        """Write down where a descent stands, and its best numbers with their trial."""
        arrays = {"q": state.q, "curvature": state.curvature, "best": best[1]}
        notes = {"i": state.i, "seen": state.seen, "trial": asdict(best[0])}
        tensors = {name: torch.from_numpy(value.copy()) for name, value in arrays.items()}
        self.folder.save_tensors(f"{stage}.safetensors", tensors, notes)

    def load_state(self, stage: str) -> tuple[State, tuple[Trial, np.ndarray]] | None:
        """What `save_state` wrote, or None."""
        saved = self.folder.load_tensors(f"{stage}.safetensors")
        if saved is None:
            return None
        arrays, notes = {name: value.numpy() for name, value in saved[0].items()}, saved[1]
        state = State(notes["i"], arrays["q"], arrays["curvature"], notes["seen"])
        return state, (Trial(**notes["trial"]), arrays["best"])
