"""Rules for y = c + sum_i b_i v_i: vectors v_i made of the outputs, with coordinates b_i from their inner products."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ..sampling.rule import COLUMNS, Rule
from .arrays import Array, Values, like, namespace, stacked

Vector = list[float]  # what COLUMNS are multiplied by
Coordinates = Sequence[Values | np.ndarray] | Callable[[Array], Sequence[Array]]

CONSTANT = 1e-6  # of the mean square: a variance below it is the rounding of a Gram matrix made in float32


def vector(
    m: float = 0.0, uncond: float = 0.0, second: float = 0.0, third: float = 0.0, x: float = 0.0, state: float = 0.0
) -> Vector:
    """A combination of the outputs, x and the state."""
    return [m, uncond, second, third, x, state]


def change(
    calls: tuple[int | None, ...],
    vectors: Sequence[Vector],
    coordinates: Coordinates,
    *,
    rescale: float = 0.0,
    space: tuple[float, float] = (0.0, 1.0),
    state: Vector | None = None,
) -> Rule:
    """The rule for y = c + sum_i b_i v_i, c being the first call's output.

    coordinates: the b_i, numbers or [B]; or a function of the vectors' Gram matrix [B, n + 1, n + 1], with the
        constant 1 as its last, that returns them.
    rescale: phi of Lin et al. 2024, section 3.4: in z = p_x x + p_m y, y's standard deviation becomes
        phi std(c) + (1 - phi) std(y). space: (p_x, p_m) of z.
    state: the next state, as a combination.
    """
    p_x, p_m = space
    rescaled = rescale != 0 and p_m != 0
    basis = [*vectors, vector(p_m, x=p_x)] if rescaled else list(vectors)
    columns = _differences([*basis, vector(1.0)], calls)
    kept = None if state is None else _differences([state], calls)

    def weights(b: Sequence[Array], one: Array) -> Array:
        sets = [_weighted(columns, [*b, 1.0], one)]
        if kept is not None:
            sets += [sets[0], _weighted(kept, [1.0], one)]
        return namespace(one).stack(sets, -2)

    if callable(coordinates):
        coordinates_of = coordinates
    elif rescaled:
        coordinates_of = lambda gram: [like(b, gram) for b in coordinates]  # noqa: E731
    else:
        b = np.broadcast_arrays(*[np.asarray(b) for b in coordinates], 1.0)
        return Rule(calls, weights=weights(b[:-1], b[-1]))

    def formula(gram: Array) -> Array:
        b = coordinates_of(gram)
        if rescaled:
            factor = 1 + rescale * (_std_ratio(gram, [*(p_m * b_i for b_i in b), 1.0]) - 1)
            b = [*(factor * b_i for b_i in b), (factor - 1) / p_m]
        return weights(b, gram[:, -1, -1])

    return Rule(calls, basis=np.array(basis), formula=formula)


def _differences(vectors: Sequence[Vector], calls: tuple[int | None, ...]) -> list[Vector]:
    """The vectors as weights of m - u, u, m_2 - u, m_3 - u, x and the state; of the outputs where there is no u."""
    assert COLUMNS[1] == "uncond"
    if len(calls) < 2 or calls[1] is None:
        return list(vectors)
    return [[m, m + u + second + third, second, third, x, s] for m, u, second, third, x, s in vectors]


def _weighted(vectors: Sequence[Vector], b: Sequence[Array], one: Array) -> Array:
    """[B, 6], sum_i b_i v_i."""
    pairs = list(zip(b, vectors, strict=True))
    return stacked([sum(b_i * v[j] for b_i, v in pairs if v[j] != 0) for j in range(len(COLUMNS))], one)


def _std_ratio(gram: Array, y: Sequence[Array]) -> Array:
    """[B] std of the last vector by that of sum_i y_i v_i, over each sample; 1 where the latter is constant."""
    xp, n = namespace(gram), len(y)
    count = xp.clip(gram[:, n, n], 1.0, None)
    mean = sum(y_i * gram[:, i, n] for i, y_i in enumerate(y)) / count
    square = sum(y_i * y_j * gram[:, i, j] for i, y_i in enumerate(y) for j, y_j in enumerate(y)) / count
    mean_c, square_c = gram[:, n - 1, n] / count, gram[:, n - 1, n - 1] / count
    var, var_c = square - mean**2, square_c - mean_c**2
    varies = var > CONSTANT * square
    return xp.where(varies, xp.sqrt(xp.clip(var_c, 0.0, None) / xp.where(varies, var, 1.0)), 1.0)
