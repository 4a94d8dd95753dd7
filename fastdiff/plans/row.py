"""A row of a plan in readable form: one model evaluation and the linear update that follows it.

`fastdiff.plans.table` has its formula, and the record that the kernels read.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from .prediction import convert
from .schedule import Points
from .table import empty_table


@dataclass(frozen=True)
class LinearUpdate:
    """base * base + x * x + sum_k history[k] H_k + sum weight * xi_index over noise = ((index, weight), ...)."""

    base: float = 0.0
    x: float = 0.0
    history: tuple[float, ...] = ()
    noise: tuple[tuple[int, float], ...] = ()

    @property
    def spread(self) -> float:
        """The standard deviation of its noises together."""
        return math.hypot(*(weight for _, weight in self.noise))

    def substitute_x(self, state: LinearUpdate) -> LinearUpdate:
        """This line where x is not the register but another line's value, of the same row."""
        depth = max(len(self.history), len(state.history))
        mine, theirs = (np.pad(np.asarray(h, float), (0, depth - len(h))) for h in (self.history, state.history))
        noise = {j: self.x * w for j, w in state.noise}
        for j, w in self.noise:
            noise[j] = noise.get(j, 0.0) + w
        history = tuple((mine + self.x * theirs).tolist())
        return LinearUpdate(self.base + self.x * state.base, self.x * state.x, history, tuple(noise.items()))


OUTPUT = 0  # in place of a noise's index, where noises are given: the model's output itself, given as the first of them
CALLS = ("full", "cheap")  # a cheap call takes part of what the latest full one computed instead of computing it
MAX_UNCOND = 3  # unconditional calls that a row without one may reuse; a step reads the outputs of four calls at most
BASE_UNCHANGED = LinearUpdate(base=1.0)  # base' = base: x' is a stage inside a step
BASE_FROM_X = LinearUpdate(x=1.0)  # base' = x


@dataclass(frozen=True)
class Row:
    """One model evaluation at time t, where x = alpha x0 + sigma eps, and the update that follows it.

    form: D is x0 ("data"), eps ("noise"), eps - x0 ("flow") or another mixture ("mixed"); D = p_x x + p_m m.
    x: the next x. base: the next base; None where it is the next x, BASE_UNCHANGED where it stays.
    drop_history: places in the history, 0 the newest, that are dropped after the update; later rows count without them.
    call: "full", or "cheap" where the model need not compute everything anew (`fastdiff.cached`).
    uncond: under guidance, weights b_k of a row that makes no unconditional call: u - c = sum_k b_k (u - c)_k, of the
        raw outputs, newest first, of the rows before it that made one. Empty where the row makes the call itself.
    """

    t: float
    alpha: float
    sigma: float
    form: str
    p_x: float
    p_m: float
    x: LinearUpdate
    base: LinearUpdate | None = None
    c_in: float = 1.0
    drop_history: tuple[int, ...] = ()
    call: str = "full"
    uncond: tuple[float, ...] = ()

    @property
    def log_snr(self) -> float:
        """lambda = log(alpha / sigma); infinite where there is no data, or no noise."""
        if not self.alpha or not self.sigma:
            return math.inf if self.alpha else -math.inf
        return math.log(self.alpha) - math.log(self.sigma)

    @classmethod
    def at(
        cls,
        point: Points,
        form: str,
        prediction: str,
        x: LinearUpdate,
        base: LinearUpdate | None = None,
        drop_history: tuple[int, ...] = (),
    ) -> Row:
        """The row that evaluates the model at one point of a grid."""
        t, alpha, sigma = (float(v) for v in point)
        p_x, p_m = convert(prediction, form, alpha, sigma)
        return cls(t, alpha, sigma, form, p_x, p_m, x, base, drop_history=drop_history)

    @property
    def accepts(self) -> bool:
        """Whether the next x is a solution at its time, not a stage inside a step."""
        return self.base != BASE_UNCHANGED

    @property
    def base_move(self) -> str:
        """Where the next base comes from: "next" x, "keep", "here" (this x), or "write" (computed)."""
        moves: dict[LinearUpdate | None, str] = {None: "next", BASE_UNCHANGED: "keep", BASE_FROM_X: "here"}
        return moves.get(self.base, "write")


def history_depth(rows: Sequence[Row]) -> int:
    """Number of outputs that must be kept so that every row finds what it reads, H_0 included; at least 1."""
    # Backwards: a row needs what it reads itself, and what the rows after it need, one place nearer to its own output.
    deepest, needed = 1, 0
    for row in reversed(rows):
        for k in sorted(row.drop_history):
            needed += needed > k
        needed = max(needed, len(row.x.history), 0 if row.base is None else len(row.base.history))
        deepest = max(deepest, needed)
        needed = max(needed - 1, 0)
    return deepest


def with_one_noise(row: Row) -> Row:
    """The row with its independent noises for x' replaced by one of the same total variance, under the last index."""
    if len(row.x.noise) < 2:
        return row
    noise = ((max(j for j, _ in row.x.noise), row.x.spread),)
    return replace(row, x=replace(row.x, noise=noise))


def table_of(rows: Sequence[Row]) -> np.ndarray:
    """The rows as the kernels read them: a read-only array of `fastdiff.plans.table.ROW`."""
    table = empty_table(len(rows))
    for record, row in zip(table, rows, strict=True):
        record["p_x"], record["p_m"], record["c_in"] = row.p_x, row.p_m, row.c_in
        indices = sorted({j for line in (row.x, row.base or LinearUpdate()) for j, _ in line.noise})
        record["noise"][: len(indices)] = indices
        for name, line in (("a", row.x), ("b", row.base or LinearUpdate())):
            record[f"{name}_base"], record[f"{name}_x"] = line.base, line.x
            record[name.upper()][: len(line.history)] = line.history
            for j, weight in line.noise:
                record[f"xi_{name}"][indices.index(j)] = weight
    table.flags.writeable = False
    return table
