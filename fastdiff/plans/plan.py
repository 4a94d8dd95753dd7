"""Plan: a solver run as a table of coefficients, float64, built once before the loop.

A run has two registers, x (where the model is evaluated next) and base (the last accepted state), and a history of
converted model outputs. `fastdiff.plans.table` has the formula of a row; `fastdiff.plans.row.Row` is its readable form.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from .. import files
from . import hub
from .limits import Limited, with_x0_input, x0_row
from .plan_check import check_labels, check_rows
from .plan_file import read_plan
from .row import LinearUpdate, Row, history_depth, table_of
from .schedule import Schedule
from .turns import turns_of

VERSION = 3  # 2 had drop_history under another name


@dataclass(frozen=True)
class Plan:
    """A run as a table of coefficients. `fastdiff.plan` makes one; `print(plan.explain())` shows it.

    rows: one for each model evaluation. end: (alpha, sigma) of the result.
    prediction: what the model predicts: "epsilon", "sample", "v_prediction", "flow_prediction" or "score".
    solver, grid: names, for the reader.
    schedule: the schedule it was made for, as `Schedule.knots()`; empty where that is not known.
    Raises ValueError where a row reads what is not there, or a number is not finite.
    """

    rows: tuple[Row, ...]
    end: tuple[float, float]
    prediction: str
    solver: str = "custom"
    grid: str = "custom"
    schedule: tuple[tuple[float, float, float], ...] = ()

    def __post_init__(self) -> None:
        check_labels(self.prediction, self.end, self.solver, self.grid, self.schedule)
        check_rows(self.rows)

    def __repr__(self) -> str:
        ends = [f"t {self.rows[0].t:g} to {self.rows[-1].t:g}", f"sigma {self.start[1]:.4g} to {self.end[1]:.4g}"]
        count = f"{self.nfe} evaluations{self._lesser_calls}"
        return f"<Plan {self.solver} on {self.grid}: {count}, {self.prediction}, {', '.join(ends)}>"

    @property
    def start(self) -> tuple[float, float]:
        """(alpha, sigma) where the run begins."""
        return self.rows[0].alpha, self.rows[0].sigma

    @property
    def init_scale(self) -> float:
        """What unit Gaussian noise is multiplied by to begin: sigma at the start (1 for VP and flow).

        1 for a plan that goes from data to noise: it begins with the data.
        """
        (a_s, s_s), (a_t, s_t) = self.start, self.end
        if a_s * s_t > a_t * s_s:
            return 1.0
        return self.rows[0].sigma if self.rows[0].alpha == 1 else math.hypot(*self.start)

    def check_schedule(self, schedule: Schedule) -> None:
        """Raises ValueError where the plan was made for another schedule."""
        for here, there in zip(self.schedule, schedule.knots(), strict=bool(self.schedule)):
            if not np.allclose(here, there, rtol=1e-6, atol=1e-9):
                raise ValueError(
                    f"schedule: the plan was made for one with (t, alpha, sigma) = {_triple(here)}, this one has"
                    f" {_triple(there)}"
                )

    @property
    def nfe(self) -> int:
        """Model evaluations in a run."""
        return len(self.rows)

    @cached_property
    def turns(self) -> tuple[range, ...]:
        """The rows in turns: those of one can share a model call, `fastdiff.sample(..., parallel=True)`.

        A turn is a range of places of rows whose states are known before any of them is evaluated.
        """
        return turns_of(self.rows)

    @cached_property
    def partial(self) -> bool:
        """Whether any row asks for a cheap call, so that the model must have such (`fastdiff.cached`)."""
        return any(row.call == "cheap" for row in self.rows)

    def cost(self, cheap: float = 0.25) -> float:
        """What a run costs, in full model evaluations. cheap: what a cheap one does (`fastdiff.cached`'s `cost`)."""
        if not math.isfinite(cheap) or cheap < 0:
            raise ValueError(f"cheap: expected a finite number >= 0, got {cheap}")
        return sum(cheap if row.call == "cheap" else 1.0 for row in self.rows)

    def refuse_cheap_calls(self, why: str) -> None:
        """Raises ValueError where any row asks for a cheap call, which whoever asks cannot make, as `why` says."""
        if self.partial:
            raise ValueError(f"plan: it asks for cheap calls, {why}; run plan.with_calls(['full'])")

    @cached_property
    def reuses_uncond(self) -> bool:
        """Whether any row makes no unconditional call under guidance, but reuses earlier ones (`Row.uncond`)."""
        return any(row.uncond for row in self.rows)

    def refuse_reuse(self, why: str) -> None:
        """Raises ValueError where any row reuses unconditional outputs, which whoever asks cannot do, as `why` says."""
        if self.reuses_uncond:
            raise ValueError(
                f"plan: some of its rows make no unconditional call, {why}; run it by fastdiff.sample with a number as"
                " guidance, or fit one without reuse_uncond"
            )

    def with_calls(self, calls: Sequence[str]) -> Plan:
        """The same plan with other rows cheap; nothing else of it changes.

        calls: "full" or "cheap" for each row; a shorter list begins again where it ends, so ["full", "cheap", "cheap"]
        makes every third call a full one, and ["full"] all. Raises ValueError where it has more than there are rows, or
        where the first is cheap.

        >>> fd.plan("dpmpp_2m", fd.Schedule.flow(), steps=10).with_calls(["full", "cheap"]).cost(cheap=0.25)
        6.25
        """
        if isinstance(calls, str) or not 0 < len(calls) <= self.nfe:
            raise ValueError(f"calls: expected a list of 1 to {self.nfe}, one for each row at most, got {calls!r}")
        rows = tuple(replace(row, call=calls[i % len(calls)]) for i, row in enumerate(self.rows))
        return replace(self, rows=rows)

    @property
    def _lesser_calls(self) -> str:
        count = sum(row.call == "cheap" for row in self.rows)
        reusing = sum(bool(row.uncond) for row in self.rows)
        text = f", {count} of them cheap" if count else ""
        return text + (f", {reusing} without an unconditional call" if reusing else "")

    @cached_property
    def depth(self) -> int:
        """Number of model outputs that must be kept, the newest included; at least 1."""
        return history_depth(self.rows)

    @property
    def stochastic(self) -> bool:
        """Whether any row draws noise."""
        return any(line.noise for line in _lines(self.rows))

    def point_after(self, i: int) -> tuple[float, float]:
        """(alpha, sigma) of the x that row i makes."""
        return (self.rows[i + 1].alpha, self.rows[i + 1].sigma) if i + 1 < len(self.rows) else self.end

    @cached_property
    def table(self) -> np.ndarray:
        """The rows as the kernels read them: a read-only array of `fastdiff.plans.table.ROW`."""
        return table_of(self.rows)

    @cached_property
    def limited(self) -> Limited:
        """What runs with bounds on x0 need besides."""
        return Limited.of(self.rows, self.prediction, self.table)

    @cached_property
    def given_x0(self) -> Plan:
        """The same run where each row is given x0 itself, as a model with prediction="sample" returns it.

        Raises ValueError where a row evaluates the model at sigma = 0 and D is not x0.
        """
        return replace(self, prediction="sample", rows=tuple(with_x0_input(row, self.prediction) for row in self.rows))

    @cached_property
    def making_x0(self) -> np.ndarray:
        """The table of rows that only turn the model's output into x0."""
        return table_of([x0_row(row, self.prediction) for row in self.rows])

    def explain(self) -> str:
        """The table as text: one model evaluation a line, then x' and, where it is its own, base'."""
        turns = f" in {len(self.turns)} turns" if len(self.turns) < self.nfe else ""
        count = f"{self.nfe} model evaluations{turns}{self._lesser_calls}"
        lines = [f"{self.solver} on {self.grid}: {count}, {self.prediction}, H depth {self.depth}"]
        for i, row in enumerate(self.rows):
            symbol = {"data": "x0", "noise": "eps", "flow": "eps-x0", "mixed": "f"}[row.form]
            lines.append(
                f"{i:3d}  t={row.t:<9.5g} alpha={row.alpha:<9.4g} sigma={row.sigma:<9.4g}"
                f"D={symbol}={_sum([(row.p_x, 'x'), (row.p_m, 'm')])}{'  cheap' if row.call == 'cheap' else ''}"
            )
            lines.append(f"     x'    = {_terms(row.x)}")
            if row.base is not None:
                lines.append(f"     base' = {_terms(row.base)}")
            if row.uncond:
                lines.append(f"     u     = c {_more([(b, f'(u - c){k + 1}') for k, b in enumerate(row.uncond)])}")
            if row.drop_history:
                lines.append(f"     drop_history {', '.join(f'H{k}' for k in row.drop_history)}")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, object]:
        """What the plan's JSON file holds."""
        data: dict[str, Any] = {"fastdiff_plan": VERSION, **asdict(self)}
        for row in data["rows"]:
            if row["call"] == "full":
                del row["call"]  # a plan without cheap calls can be read by all of version 3
            if not row["uncond"]:
                del row["uncond"]  # the same of a plan that makes all unconditional calls
        return data

    @classmethod
    def from_dict(cls, data: object) -> Plan:
        """The plan that `to_dict` described, through JSON or not. Raises ValueError naming the field."""
        if not isinstance(data, dict) or "fastdiff_plan" not in data:
            raise ValueError("no fastdiff_plan version in it")
        if data["fastdiff_plan"] not in (2, VERSION):
            raise ValueError(f"fastdiff_plan: expected plan version {VERSION}, got {data['fastdiff_plan']!r:.80}")
        return cls(**read_plan(data))

    def save(self, path: str | os.PathLike) -> None:
        """Write the plan as JSON; `Plan.load` gives back the same plan bit for bit. Leaves no partial file."""
        files.write(Path(path), lambda partial: partial.write_text(self._json()))

    def _json(self) -> str:
        return json.dumps(self.to_dict(), indent=1, allow_nan=False) + "\n"

    @classmethod
    def load(cls, path: str | os.PathLike) -> Plan:
        """Read a plan that `save` wrote. Raises ValueError naming the file and what is wrong with it."""
        try:
            return cls.from_dict(json.loads(Path(path).read_text()))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{os.fspath(path)}: not a valid fastdiff plan: {error}") from error

    def save_pretrained(
        self, folder: str | os.PathLike, *, model: str | None = None, guidance: float | None = None
    ) -> Path:
        """Write the plan to its place in a folder of plans, `fastdiff.plans.hub`, and return the file's path.

        model: the name of the model that it is for; None for a folder of this plan alone. guidance: the scale that it
        was fitted with. Raises ValueError naming the argument.
        """
        path = Path(folder) / hub.place_of(model, self.nfe, guidance)
        self.save(path)
        return path

    def push_to_hub(
        self,
        repo_id: str,
        *,
        model: str | None = None,
        guidance: float | None = None,
        commit_message: str | None = None,
        private: bool | None = None,
        revision: str | None = None,
        token: str | bool | None = None,
    ) -> str:
        """Upload the plan to its place in a repository of the Hugging Face Hub, and return the commit's address.

        repo_id: "user/name"; made where there is none. model, guidance: as for `save_pretrained`. The others are
        huggingface_hub's. Raises ImportError without huggingface_hub (pip install 'fastdiff[hub]').
        """
        place = hub.place_of(model, self.nfe, guidance)
        message = commit_message or f"Plan of {self.nfe} evaluations for {model or 'a model'}"
        return hub.upload(self._json(), repo_id, place, message, private, revision, token)

    @classmethod
    def from_pretrained(
        cls,
        source: str | os.PathLike,
        *,
        model: str | None = None,
        steps: int | None = None,
        guidance: float | None = None,
        revision: str | None = None,
        token: str | bool | None = None,
    ) -> Plan:
        """Read a plan from a folder that `save_pretrained` wrote to, or from a repository of the Hugging Face Hub.

        model, steps, guidance: which of its plans; nothing for the one of a place that holds one. revision, token:
        huggingface_hub's. Raises FileNotFoundError that lists the plans there are, ValueError for a damaged file.
        """
        return cls.load(hub.find(source, hub.place_of(model, steps, guidance), revision, token))


def _lines(rows: Iterable[Row]) -> list[LinearUpdate]:
    return [line for row in rows for line in (row.x, row.base) if line is not None]


def _triple(knot: tuple[float, ...]) -> str:
    return "(" + ", ".join(f"{v:.6g}" for v in knot) + ")"


def _terms(line: LinearUpdate) -> str:
    named = [(line.base, "base"), (line.x, "x"), *((w, f"H{k}") for k, w in enumerate(line.history))]
    return _sum(named + [(w, f"xi{j}") for j, w in line.noise])


def _sum(terms: list[tuple[float, str]]) -> str:
    """'0.5 x - 2 H0', leaving out zeros."""
    return _more(terms).removeprefix("+ ") or "0"


def _more(terms: list[tuple[float, str]]) -> str:
    """'+ 0.5 x - 2 H0', leaving out zeros."""
    return " ".join(f"{'-' if w < 0 else '+'} {abs(w):.6g} {name}" for w, name in terms if w != 0)
