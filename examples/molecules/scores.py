"""Whether molecules could exist, and how far their distances are from the known ones."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from .data import ANGSTROM, VALENCE, Molecules

RADII = torch.zeros(10)
RADII[[1, 6, 7, 8, 9]] = torch.tensor([0.31, 0.76, 0.71, 0.66, 0.57])  # covalent, Angstrom (Cordero et al. 2008)
BOND, CLASH = 1.25, 0.7  # of the sum of two radii


def relative(drawn: Molecules) -> tuple[Tensor, Tensor]:
    """Distances [M, N, N] in Angstrom, and over the sum of the two radii; infinite where there are not two atoms."""
    apart = torch.cdist(drawn.x, drawn.x) * ANGSTROM
    radii = RADII[drawn.atoms]
    pairs = (drawn.mask[:, :, None] * drawn.mask[:, None] - torch.eye(drawn.x.shape[1])) > 0
    apart = torch.where(pairs, apart, torch.inf)
    return apart, apart / (radii[:, :, None] + radii[:, None] + 1e-9)


def valid(drawn: Molecules) -> Tensor:
    """[M] whether all atoms hang together by bonds, none has more than its valence, and no two are too close."""
    _, ratio = relative(drawn)
    bonds = ratio < BOND
    most = torch.tensor([VALENCE.get(z, 0) for z in range(10)])[drawn.atoms]
    fits = (bonds.sum(2) <= most).all(1) & (ratio > CLASH).flatten(1).all(1)
    reached = torch.zeros_like(drawn.atoms, dtype=torch.bool)
    reached[:, 0] = True
    for _ in range(drawn.x.shape[1]):
        reached |= (bonds & reached[:, None]).any(2)
    return fits & (reached | (drawn.atoms == 0)).all(1)


def distances_apart(drawn: Molecules, known: Molecules) -> float:
    """The mean over formulas of W1 between all pair distances of the drawn and of the known molecules, Angstrom."""
    mine, theirs = by_formula(drawn), by_formula(known)
    gaps = []
    for formula, rows in mine.items():
        one, other = (sorted_distances(m, r) for m, r in ((drawn, rows), (known, theirs[formula])))
        gaps.append(np.abs(quantiles(one) - quantiles(other)).mean())
    return float(np.mean(gaps))


def nearest_known(drawn: Molecules, known: Molecules) -> Tensor:
    """[M] the root mean square difference of sorted distances from the nearest molecule of the formula, Angstrom."""
    mine, theirs, found = by_formula(drawn), by_formula(known), torch.zeros(len(drawn.x))
    for formula, rows in mine.items():
        others = torch.stack([fingerprint(known, i) for i in theirs[formula]])
        for i in rows:
            found[i] = (fingerprint(drawn, i) - others).square().mean(1).min().sqrt()
    return found


def fingerprint(drawn: Molecules, i: int) -> Tensor:
    """The distances of each pair of elements, sorted: the same for the same molecule in any frame and order."""
    atoms, x = drawn.atoms[i], drawn.x[i] * ANGSTROM
    upper = torch.triu_indices(int((atoms > 0).sum()), int((atoms > 0).sum()), 1)
    apart = (x[upper[0]] - x[upper[1]]).norm(dim=1)
    pair = torch.sort(torch.stack([atoms[upper[0]], atoms[upper[1]]]), dim=0).values
    order = np.lexsort((apart.numpy(), (pair[0] * 10 + pair[1]).numpy()))
    return apart[torch.from_numpy(order)]


def by_formula(drawn: Molecules) -> dict[tuple[int, ...], list[int]]:
    """The rows of each formula."""
    rows: dict[tuple[int, ...], list[int]] = {}
    for i, atoms in enumerate(drawn.atoms):
        rows.setdefault(tuple(sorted(atoms.tolist())), []).append(i)
    return rows


def sorted_distances(drawn: Molecules, rows: list[int]) -> np.ndarray:
    apart, _ = relative(drawn)
    found = apart[rows]
    return np.sort(found[found.isfinite()].numpy())


def quantiles(values: np.ndarray) -> np.ndarray:
    return np.quantile(values, (np.arange(200) + 0.5) / 200)
