"""The G2 set of molecules that ships with ase (Curtiss et al. 1997): atoms and where they lie."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

ELEMENTS = {"H": 1, "C": 6, "N": 7, "O": 8, "F": 9}
VALENCE = {1: 1, 6: 4, 7: 4, 8: 3, 9: 1}  # bonds that an atom has at most
ANGSTROM = 2.0  # of one unit of x: the data then have about EDM's standard deviation, 0.5


class Molecules(NamedTuple):
    """atoms [M, N] atomic numbers, 0 at padding. x [M, N, 3], centred, in units of ANGSTROM. names: ase's."""

    atoms: Tensor
    x: Tensor
    names: tuple[str, ...]

    @property
    def mask(self) -> Tensor:
        return (self.atoms > 0).float()

    def at(self, rows: Tensor) -> Molecules:
        return Molecules(self.atoms[rows], self.x[rows], tuple(self.names[i] for i in rows.tolist()))


def molecules(least: int = 5) -> Molecules:
    """All of at least so many atoms, of the elements above."""
    from ase.collections import g2

    chosen = [name for name in g2.names if len(g2[name]) >= least and set(g2[name].symbols) <= ELEMENTS.keys()]
    most = max(len(g2[name]) for name in chosen)
    atoms, x = torch.zeros(len(chosen), most, dtype=torch.long), torch.zeros(len(chosen), most, 3)
    for i, name in enumerate(chosen):
        found = g2[name]
        atoms[i, : len(found)] = torch.from_numpy(found.numbers.astype(np.int64))
        x[i, : len(found)] = torch.from_numpy(found.positions - found.positions.mean(0)).float() / ANGSTROM
    return Molecules(atoms, x, tuple(chosen))
