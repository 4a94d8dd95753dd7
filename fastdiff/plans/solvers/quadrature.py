"""Integrals of Lagrange polynomials, by Gauss-Legendre quadrature fine enough that only rounding is left."""

from __future__ import annotations

import math

import numpy as np

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(16)


def gauss(edges: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(places, weights) of 16 nodes on each of the intervals between the edges."""
    # From [-1, 1], where the nodes are given, to each interval. Falling edges give negative weights, as they should.
    half = np.diff(edges)[:, None] / 2
    places = edges[:-1, None] + half * (1 + _NODES)
    return places.ravel(), (half * _WEIGHTS).ravel()


def unit_panels(first: float, last: float, rate: float = 1.0) -> np.ndarray:
    """Edges between first and last, close enough for functions that change as e^(rate x)."""
    # On such a panel the exponential changes by a factor e at most, which 16 nodes integrate to rounding.
    return np.linspace(first, last, 1 + max(1, math.ceil(rate * abs(last - first))))


def lagrange(places: np.ndarray, at: np.ndarray) -> np.ndarray:
    """[places, at] the Lagrange polynomials of the places."""
    rows = []
    for j, place in enumerate(places):
        # Factor by factor: coefficients of powers would be large and of both signs.
        others = np.delete(places, j)
        rows.append(np.prod((at[None, :] - others[:, None]) / (place - others[:, None]), axis=0))
    return np.array(rows)
