"""A solver of the catalogue: what it is, what it claims, which options it takes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from ..options import MEANINGS
from ..row import Row
from ..schedule import Points, Schedule

# Steps so many times longer in lambda than the one before extrapolate too far for second order. Measured: from 2 to 3
# the results are the same.
MAX_RATIO = 2.5


@dataclass(frozen=True)
class Solver:
    """One entry of the catalogue. `print(solver)` shows its options with their defaults.

    name: what `fastdiff.plan` knows it by. aliases: names it goes by elsewhere. paper: where it comes from.
    order: of convergence on the ODE. For stochastic solvers, of mean and variance (weak order): at most 2, because
    differences of outputs carry the noise of earlier steps. 0 for models that map noise to data and follow no ODE.
    nfe: model evaluations per step. extra_nfe: evaluations besides those, in a run that is long enough.
    stochastic: whether it draws noise by default. max_order: the highest value of the option `order`.
    from_clean: whether it can begin at sigma = 0, where the velocity is finite there.
    build: (schedule, points, prediction, **options) -> rows, as published.
    """

    name: str
    build: Callable[..., list[Row]] = field(repr=False)
    order: int
    nfe: int
    paper: str
    aliases: tuple[str, ...] = ()
    stochastic: bool = False
    extra_nfe: int = 0
    max_order: int = 3
    from_clean: bool = False

    def __repr__(self) -> str:
        return f"<Solver {self._summary}>"

    def __str__(self) -> str:
        lines = [self._summary]
        if self.aliases:
            lines.append(f"also called {', '.join(self.aliases)}")
        meanings = {name: meaning.format(max_order=self.max_order) for name, meaning in MEANINGS.items()}
        rows = [(f"  {name}", _shown(default), meanings[name]) for name, default in self.options.items()]
        return "\n".join([*lines, *aligned([("  option", "default", "meaning"), *rows])])

    @property
    def _summary(self) -> str:
        noise = "stochastic" if self.stochastic else "deterministic"
        return f"{self.name}: order {self.order}, {self.nfe} NFE per step, {noise}, {self.paper}"

    @property
    def options(self) -> dict[str, object]:
        """The options that `fastdiff.plan` passes on to it, with their defaults."""
        parameters = inspect.signature(self.build).parameters.values()
        found = {p.name: p.default for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY}
        return found | {"max_ratio": MAX_RATIO} if "max_ratio" in found else found

    def rows(self, schedule: Schedule, points: Points, prediction: str, **options: object) -> list[Row]:
        """What `fastdiff.plan` makes of it: as published, but of first order on steps too long to extrapolate over."""
        if "max_ratio" in self.options:
            options = {"max_ratio": MAX_RATIO, **options}
        return self.build(schedule, points, prediction, **options)


def aligned(cells: Sequence[Sequence[str]]) -> list[str]:
    """Rows of cells as lines of text, in columns."""
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in cells]


def _shown(value: object) -> str:
    """A default as one would write it; a function by its name."""
    return value.__name__ if inspect.isfunction(value) else repr(value)
