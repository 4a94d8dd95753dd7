"""What a fit has tried and kept, in memory and, where a folder is given, on disk: an interrupted fit goes on there."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..plans.plan import Plan
from .descent import State
from .files import load_json, load_tensors, make_folder, save_json, save_tensors

SHOWN_INTERVAL = 1.0  # seconds from one report of a stage that goes on to the next
HEADER = f"{'stage':10s} {'plan':44s} {'NFE':>4s} {'mean':>9s} {'median':>9s} {'RMSE':>9s} {'seconds':>8s}"


@dataclass(frozen=True)
class Trial:
    """One plan and its distances from the held-out converged samples; a stage that could not run has a note instead.

    seconds: since the fit began.
    """

    stage: str
    name: str
    nfe: int
    mean: float
    median: float
    rmse: float
    seconds: float
    note: str = ""

    def __str__(self) -> str:
        if self.note:
            return f"{self.stage:10s} {self.note}"
        numbers = " ".join(f"{value:9.5f}" for value in (self.mean, self.median, self.rmse))
        return f"{self.stage:10s} {self.name[:44]:44s} {self.nfe:4d} {numbers} {self.seconds:8.1f}"


class Journal:
    """The best plan so far and the record of complete stages. report: called with trials, an earlier call's too.

    fit: whose files those in the folder have to be, as `claim` says.
    """

    def __init__(self, folder: Path | None, report: Callable[[Trial], object] | None) -> None:
        self.folder, self.report, self.fit = folder, report or (lambda trial: None), ""
        self.best: tuple[Trial, Plan] | None = None
        self._shown = -SHOWN_INTERVAL

    def keep(self, trial: Trial, plan: Plan) -> None:
        """Keep a plan where it is the best so far."""
        if self.best is None or trial.mean < self.best[0].mean:
            self.best = trial, plan

    def finish_early(self, trial: Trial, plan: Plan) -> None:
        """Report a stage that the budget has ended; its plan takes the place of one judged on other samples."""
        self.best = trial, plan
        self.report(trial)

    def show(self, trial: Trial) -> None:
        """Report a trial of a stage that goes on, at most one a second."""
        if trial.seconds - self._shown >= SHOWN_INTERVAL:
            self._shown = trial.seconds
            self.report(trial)

    def note(self, stage: str, text: str) -> None:
        """Report why a stage did not run or did not end."""
        nan = float("nan")
        self.report(Trial(stage, "", 0, nan, nan, nan, nan, text))

    def finish(self, stage: str, trials: list[tuple[Trial, Plan]], extra: dict[str, object]) -> None:
        """Keep and report what a stage found, and write down that it is complete."""
        for trial, plan in trials:
            self.keep(trial, plan)
            self.report(trial)
        if self.folder is not None:
            found = [{"trial": asdict(trial), "plan": plan.to_dict()} for trial, plan in trials]
            save_json(self.folder / f"{stage}.json", self.fit, {"found": found, **extra})

    def finished(self, stage: str) -> dict[str, Any] | None:
        """The record of a complete stage, its trials reported and kept again; None where it has yet to run."""
        record = None if self.folder is None else load_json(self.folder / f"{stage}.json", self.fit)
        for found in record["found"] if record else ():
            trial = Trial(**found["trial"])
            self.keep(trial, Plan.from_dict(found["plan"]))
            self.report(trial)
        return record

    def save_state(self, stage: str, state: State, best: tuple[Trial, np.ndarray]) -> None:
        """Write down where a descent stands, and its best numbers with their trial."""
        if self.folder is None:
            return
        arrays = {"q": state.q, "curvature": state.curvature, "best": best[1]}
        notes = {"i": state.i, "seen": state.seen, "trial": asdict(best[0])}
        tensors = {name: torch.from_numpy(value.copy()) for name, value in arrays.items()}
        save_tensors(self.folder / f"{stage}.safetensors", self.fit, tensors, notes)

    def load_state(self, stage: str) -> tuple[State, tuple[Trial, np.ndarray]] | None:
        """What `save_state` wrote, or None."""
        saved = None if self.folder is None else load_tensors(self.folder / f"{stage}.safetensors", self.fit)
        if saved is None:
            return None
        arrays, notes = {name: value.numpy() for name, value in saved[0].items()}, saved[1]
        state = State(notes["i"], arrays["q"], arrays["curvature"], notes["seen"])
        return state, (Trial(**notes["trial"]), arrays["best"])


def claim(folder: Path, **key: object) -> str:
    """Make the folder this fit's; the name of the fit that its files belong to.

    Raises ValueError where it is that of another; numbers may differ a little from what the first call wrote.
    """
    make_folder(folder)
    path = folder / "fit.json"
    saved = load_json(path, "")
    if saved is None:
        saved = key
        save_json(path, "", key)
    wrong = [name for name, value in key.items() if name not in saved or not _alike(value, saved[name])]
    if wrong:
        raise ValueError(f"folder: {folder} holds a fit with another {', '.join(wrong)}; give this one its own")
    return sha256(json.dumps(saved).encode()).hexdigest()


def _alike(a: Any, b: Any) -> bool:
    """Equal, or numbers that differ by what another order of summation leaves."""
    if isinstance(a, (list, tuple)) and np.shape(a) == np.shape(b):
        return bool(np.allclose(a, b, rtol=1e-3))
    return a == b
