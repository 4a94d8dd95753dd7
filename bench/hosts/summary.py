"""bench/results/hosts.md: what all rows of the hosts come to, and each of them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable

from ..markdown import number, table
from .row import EVALUATIONS, Row

INTRODUCTION = """# fastdiff in the libraries of other fields

`python -m bench.hosts`. Exact models of Gaussian mixtures in the library's own protocol, its sampler beside fastdiff's
adapter from the same noise, with equal calls of the model. Errors are medians over 64 samples of the distance from
their converged solution, over the samples' size. Parity: the largest difference of the two with the library's own
settings, over the samples' size.

The first table has the geometric means over the problems, "its own error / ours", for the library's default sampler;
`*` is the library's default number of evaluations. "Least gain": the smallest ratio in all rows of that use, other
samplers of the library included, but for rows where both errors are below 1e-4; below 1 the library is better there.
"""
EXACT = 1e-4
DETAILS = (
    "host",
    "use and problem",
    "evaluations",
    "its sampler",
    "error",
    "fastdiff",
    "error",
    "times less",
    "parity",
)


def rendered(rows: list[Row]) -> str:
    """The page."""
    head = ("host", "use", "its sampler", *EVALUATIONS, "\\*", "least gain", "parity")
    uses: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        uses.setdefault((f"{row.host} {row.version}", use(row)), []).append(row)
    lines = [line(*key, members) for key, members in uses.items()]
    return f"{INTRODUCTION}\n{table(head, lines)}\n\n## All rows\n\n{table(DETAILS, map(detail, rows))}\n"


def use(row: Row) -> str:
    """The loop of the library, without the problem."""
    return re.sub(r"(, | on )(\d+ modes in .*|\d+ dimensions.*)$", "", row.use)


def line(host: str, name: str, rows: list[Row]) -> tuple[object, ...]:
    """One use of a library: its default sampler is the first that it has a row for."""
    own = rows[0].own_name
    mine = [row for row in rows if row.own_name == own]
    cells = [pair([row for row in mine if row.evaluations == n]) for n in EVALUATIONS]
    usual = [row for row in mine if row.default]
    last = f"{usual[0].evaluations}: {pair(usual)}" if usual else ""
    least = min((row.own / row.ours for row in rows if max(row.own, row.ours) >= EXACT), default=math.nan)
    parity = max((row.parity for row in rows if row.parity is not None), default=math.nan)
    return host, name, own, *cells, last, f"{least:.2g}", "" if math.isnan(parity) else f"{parity:.0e}"


def pair(rows: list[Row]) -> str:
    """Geometric means over problems."""
    if not rows:
        return ""
    return " / ".join(number(geometric(values)) for values in ([r.own for r in rows], [r.ours for r in rows]))


def geometric(values: Iterable[float]) -> float:
    """The geometric mean."""
    logs = [math.log(max(value, 1e-15)) for value in values]
    return math.exp(sum(logs) / len(logs))


def detail(row: Row) -> tuple[object, ...]:
    """A row as it was measured."""
    count = f"{row.evaluations} \\*" if row.default else row.evaluations
    parity = "" if row.parity is None else f"{row.parity:.0e}"
    own, ours = number(row.own), number(row.ours)
    ratio = f"{row.own / row.ours:.2g}" if row.ours else ""
    return f"{row.host} {row.version}", row.use, count, row.own_name, own, row.our_name, ours, ratio, parity
