"""The solvers by name."""

from __future__ import annotations

import difflib

from .menu_grids import MENU_GRIDS
from .solvers.entries import SOLVERS
from .solvers.entry import Solver, aligned

_GRID_SUFFIXES = ("karras", "exponential", "ays", *MENU_GRIDS)


class Catalogue(tuple[Solver, ...]):
    """A tuple of solvers that prints as a table."""

    def __str__(self) -> str:
        head = ("name", "order", "NFE per step", "noise", "paper", "also called")
        return "\n".join(aligned([head, *map(_cells, self)]))

    __repr__ = __str__


def _cells(s: Solver) -> tuple[str, ...]:
    return s.name, f"{s.order}", f"{s.nfe}", "yes" if s.stochastic else "no", s.paper, ", ".join(s.aliases)


def solvers() -> Catalogue:
    """All solvers, a tuple of `Solver`; `print(fastdiff.solvers())` is a table.

    Its columns: name, order of convergence, model evaluations (NFE) per step, whether it draws noise by default, paper,
    and the names it goes by elsewhere, which `fastdiff.plan` knows too.
    """
    return Catalogue(SOLVERS)


def solver(name: str) -> Solver:
    """The solver of that name or alias; `print(fastdiff.solver("unipc"))` shows its options and their defaults.

    Raises ValueError with the nearest names, TypeError where `name` is not a string.
    """
    return find_solver(name)[0]


def _plain(name: str) -> str:
    return name.lower().replace("++", "pp").replace("-", "_").replace(" ", "_").removeprefix("k_")


_ALIASES = {_plain(alias): entry for entry in SOLVERS for alias in (entry.name, *entry.aliases)}


def find_solver(name: str) -> tuple[Solver, str | None]:
    """The solver of that name or alias, and the grid that the alias brings ("DPM++ 2M Karras"), or None.

    Raises ValueError with the nearest names.
    """
    if not isinstance(name, str):
        raise TypeError(f"solver: expected a name, such as 'dpmpp_2m', got {name!r}")
    plain = _plain(name)
    for grid in _GRID_SUFFIXES:
        head = plain.removesuffix(f"_{grid}")
        if head != plain and head in _ALIASES:
            return _ALIASES[head], grid
    if plain in _ALIASES:
        return _ALIASES[plain], None
    begin = sorted((s for s in SOLVERS if s.name.startswith(plain)), key=lambda s: (s.stochastic, s.nfe))
    near = (
        [s.name for s in begin[:4]]
        or difflib.get_close_matches(plain, _ALIASES, n=3, cutoff=0.4)
        or [s.name for s in SOLVERS]
    )
    raise ValueError(f"solver: {name!r} is not known; did you mean {', '.join(near)}? fastdiff.solvers() lists all")
