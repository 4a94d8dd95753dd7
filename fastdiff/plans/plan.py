"""Plan: a solver run as a table of coefficients, float64, built once before the loop.

A run has two registers, x (where the model is evaluated next) and base (the last accepted state), and a history of
converted model outputs. `fastdiff.plans.table` has the formula of a row; `fastdiff.plans.row.Row` is its readable form.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from .. import files
from .limits import Limited
from .prediction import FORMS, PREDICTIONS
from .row import LinearUpdate, Row, table_of
from .schedule import KNOTS, Schedule
from .table import MAX_HISTORY, MAX_NOISE

VERSION = 3  # 2 had drop_history under another name


@dataclass(frozen=True)
class Plan:
    """The rows of a run and what they are for.

    start, end: (alpha, sigma) of the first x and of the result. solver, grid: names, for the reader.
    schedule: the schedule it was made for, as `Schedule.knots()`; empty where that is not known.
    """

    rows: tuple[Row, ...]
    end: tuple[float, float]
    prediction: str
    solver: str = "custom"
    grid: str = "custom"
    schedule: tuple[tuple[float, float, float], ...] = ()

    def __post_init__(self) -> None:
        _validate(self)

    def __repr__(self) -> str:
        ends = [f"t {self.rows[0].t:g} to {self.rows[-1].t:g}", f"sigma {self.start[1]:.4g} to {self.end[1]:.4g}"]
        return f"<Plan {self.solver} on {self.grid}: {self.nfe} evaluations, {self.prediction}, {', '.join(ends)}>"

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
    def depth(self) -> int:
        """How many history entries must be kept, H_0 included; at least 1."""
        deepest, needed = 1, 0  # needed: how many of the newest outputs the rows from here on read
        for row in reversed(self.rows):
            for k in sorted(row.drop_history):
                needed += needed > k
            needed = max(needed, len(row.x.history), 0 if row.base is None else len(row.base.history))
            deepest = max(deepest, needed)
            needed = max(needed - 1, 0)
        return deepest

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

    def explain(self) -> str:
        """The table as text: one model evaluation a line, then x' and, where it is its own, base'."""
        head = f"{self.solver} on {self.grid}: {self.nfe} model evaluations, {self.prediction}, H depth {self.depth}"
        lines = [head]
        for i, row in enumerate(self.rows):
            symbol = {"data": "x0", "noise": "eps", "flow": "eps-x0", "mixed": "f"}[row.form]
            lines.append(
                f"{i:3d}  t={row.t:<9.5g} alpha={row.alpha:<9.4g} sigma={row.sigma:<9.4g}"
                f"D={symbol}={_sum([(row.p_x, 'x'), (row.p_m, 'm')])}"
            )
            lines.append(f"     x'    = {_terms(row.x)}")
            if row.base is not None:
                lines.append(f"     base' = {_terms(row.base)}")
            if row.drop_history:
                lines.append(f"     drop_history {', '.join(f'H{k}' for k in row.drop_history)}")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, object]:
        """What the plan's JSON file holds."""
        return {"fastdiff_plan": VERSION, **asdict(self)}

    @classmethod
    def from_dict(cls, data: dict[str, object]) -> Plan:
        """The plan that `to_dict` described, through JSON or not. Raises ValueError naming the field."""
        from .plan_file import read_plan

        if not isinstance(data, dict) or "fastdiff_plan" not in data:
            raise ValueError("no fastdiff_plan version in it")
        if data["fastdiff_plan"] not in (2, VERSION):
            raise ValueError(f"fastdiff_plan: expected plan version {VERSION}, got {data['fastdiff_plan']!r:.80}")
        return cls(**read_plan(data))

    def save(self, path: str | os.PathLike) -> None:
        """Write the plan as JSON; `Plan.load` gives back the same plan bit for bit. Leaves no partial file."""
        text = json.dumps(self.to_dict(), indent=1, allow_nan=False) + "\n"
        files.write(Path(path), lambda partial: partial.write_text(text))

    @classmethod
    def load(cls, path: str | os.PathLike) -> Plan:
        """Read a plan that `save` wrote. Raises ValueError naming the file and what is wrong with it."""
        try:
            return cls.from_dict(json.loads(Path(path).read_text()))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{os.fspath(path)}: not a valid fastdiff plan: {error}") from error


def _lines(rows: Iterable[Row]) -> list[LinearUpdate]:
    return [line for row in rows for line in (row.x, row.base) if line is not None]


def _validate(plan: Plan) -> None:
    if not plan.rows:
        raise ValueError("plan: expected at least one row in rows")
    if plan.prediction not in PREDICTIONS:
        raise ValueError(f"plan: expected a prediction of {', '.join(PREDICTIONS)}, got {plan.prediction!r}")
    if len(plan.end) != 2 or not all(_finite(v) for v in plan.end):
        raise ValueError(f"plan: expected end to be (alpha, sigma), got {plan.end}")
    if not isinstance(plan.solver, str) or not isinstance(plan.grid, str):
        raise ValueError(f"plan: expected names for solver and grid, got {plan.solver!r}, {plan.grid!r}")
    known = all(len(knot) == 3 and all(map(_finite, knot)) for knot in plan.schedule)
    if len(plan.schedule) not in (0, KNOTS) or not known:
        raise ValueError(f"plan: expected {KNOTS} knots (t, alpha, sigma) of its schedule, got {plan.schedule}")
    kept = 0
    for i, row in enumerate(plan.rows):
        kept += 1
        _validate_row(row, i, kept)
        kept -= len(row.drop_history)
    if plan.depth > MAX_HISTORY:
        raise ValueError(
            f"plan: by what the rows read of the history and drop from it, {plan.depth} outputs are needed at once, at"
            f" most {MAX_HISTORY} are kept"
        )


def _validate_row(row: Row, i: int, kept: int) -> None:
    """kept: how many outputs there are, the row's own included."""
    numbers, indices = [row.t, row.alpha, row.sigma, row.p_x, row.p_m, row.c_in], set()
    for name, line in (("x", row.x), ("base", row.base)):
        if line is None and name == "base":
            continue
        if not isinstance(line, LinearUpdate):
            raise ValueError(f"plan: row {i} has {name} = {line!r}, expected a LinearUpdate")
        numbers += [line.base, line.x, *line.history, *(w for _, w in line.noise)]
        drawn, read = [j for j, _ in line.noise], len(line.history)
        if len(set(drawn)) != len(drawn):
            raise ValueError(f"plan: row {i} names the same noise twice in {name}.noise: {drawn}")
        if read > MAX_HISTORY:
            raise ValueError(f"plan: row {i} reads {read} outputs in {name}.history, at most {MAX_HISTORY} are kept")
        if read > kept:
            raise ValueError(f"plan: row {i} reads H_{read - 1} in {name}.history, which no earlier row has made")
        indices |= set(drawn)
    if not all(map(_finite, numbers)):
        raise ValueError(f"plan: row {i} holds a number that is not finite: {row}")
    if len(indices) > MAX_NOISE or any(not isinstance(j, int) or not 0 <= j < 2**32 for j in indices):
        raise ValueError(f"plan: row {i} draws noise {indices}, expected at most {MAX_NOISE} numbers below 2^32")
    if row.form not in (*FORMS, "mixed"):
        raise ValueError(f"plan: row {i} has form {row.form!r}, expected one of {FORMS} or 'mixed'")
    if len(set(row.drop_history)) != len(row.drop_history) or any(k not in range(kept) for k in row.drop_history):
        raise ValueError(f"plan: row {i} forgets {row.drop_history}, expected places among {kept} outputs")


def _finite(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _triple(knot: tuple[float, ...]) -> str:
    return "(" + ", ".join(f"{v:.6g}" for v in knot) + ")"


def _terms(line: LinearUpdate) -> str:
    named = [(line.base, "base"), (line.x, "x"), *((w, f"H{k}") for k, w in enumerate(line.history))]
    return _sum(named + [(w, f"xi{j}") for j, w in line.noise])


def _sum(terms: list[tuple[float, str]]) -> str:
    """'0.5 x - 2 H0', leaving out zeros."""
    text = " ".join(f"{'-' if w < 0 else '+'} {abs(w):.6g} {name}" for w, name in terms if w != 0)
    return text.removeprefix("+ ") or "0"
