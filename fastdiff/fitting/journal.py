"""What a fit has tried and kept, in memory and, where a folder is given, on disk: an interrupted fit goes on there."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from ..plan import Plan
from .descent import State

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
    """The best plan so far and the record of complete stages. report: called with trials, an earlier call's too."""

    def __init__(self, folder: Path | None, report: Callable[[Trial], object] | None) -> None:
        self.folder, self.report = folder, report or (lambda trial: None)
        self.best: tuple[Trial, Plan] | None = None

    def keep(self, trial: Trial, plan: Plan) -> None:
        """Keep a plan where it is the best so far."""
        if self.best is None or trial.mean < self.best[0].mean:
            self.best = trial, plan

    def note(self, stage: str, text: str) -> None:
        """Report why a stage did not run or did not end."""
        nan = float("nan")
        self.report(Trial(stage, "", 0, nan, nan, nan, nan, text))

    def finish(self, stage: str, trials: list[tuple[Trial, Plan]], extra: dict[str, object]) -> None:
        """Keep and report what a stage found, and write down that it is complete."""
        for trial, plan in trials:
            self.keep(trial, plan)
            self.report(trial)
        if self.folder is None:
            return
        for i, (_, plan) in enumerate(trials):
            plan.save(self.folder / f"{stage}-{i}.json")
        record = {"trials": [asdict(trial) for trial, _ in trials], **extra}
        write(self.folder / f"{stage}.json", lambda path: path.write_text(json.dumps(record) + "\n"))

    def finished(self, stage: str) -> dict | None:
        """The record of a complete stage, its trials reported and kept again; None where it has yet to run."""
        if self.folder is None or not (self.folder / f"{stage}.json").exists():
            return None
        record = json.loads((self.folder / f"{stage}.json").read_text())
        for i, trial in enumerate(record["trials"]):
            self.keep(Trial(**trial), Plan.load(self.folder / f"{stage}-{i}.json"))
            self.report(Trial(**trial))
        return record

    def save_state(self, stage: str, state: State, best: tuple[Trial, np.ndarray]) -> None:
        """Write down where a descent stands, and its best numbers with their trial."""
        if self.folder is None:
            return
        arrays = {**asdict(state), "trial": json.dumps(asdict(best[0])), "best": best[1]}

        def save(path: Path) -> None:
            with path.open("wb") as file:
                np.savez(file, **arrays)

        write(self.folder / f"{stage}.npz", save)

    def load_state(self, stage: str) -> tuple[State, tuple[Trial, np.ndarray]] | None:
        """What `save_state` wrote, or None."""
        if self.folder is None or not (self.folder / f"{stage}.npz").exists():
            return None
        with np.load(self.folder / f"{stage}.npz") as saved:
            state = State(int(saved["i"]), saved["q"], saved["curvature"], int(saved["seen"]))
            return state, (Trial(**json.loads(str(saved["trial"]))), saved["best"])


def claim(folder: Path, **key: object) -> None:
    """Make the folder this fit's. Raises ValueError where it is that of another; numbers may differ a little."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "fit.json"
    if path.exists():
        saved = json.loads(path.read_text())
        wrong = [name for name, value in key.items() if name not in saved or not _alike(value, saved[name])]
        if wrong:
            raise ValueError(f"folder: {folder} holds a fit with another {', '.join(wrong)}; give this one its own")
    write(path, lambda partial: partial.write_text(json.dumps(key, indent=1) + "\n"))


def _alike(a: object, b: object) -> bool:
    """Equal, or numbers that differ by what another order of summation leaves."""
    if isinstance(a, (list, tuple)) and np.shape(a) == np.shape(b):
        return bool(np.allclose(a, b, rtol=1e-3))
    return a == b


def write(path: Path, save: Callable[[Path], object]) -> None:
    """Call save(partial file) and move the result to `path`."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        save(partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
