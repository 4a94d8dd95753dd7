"""Rules for y = c + sum_i b_i v_i: vectors v_i made of the outputs, with coordinates b_i from their inner products."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ..sampling.rule import COLUMNS, Rule
from .arrays import Array, Sample, Values, at_least, like, namespace, zeros

Vector = list[float]  # what COLUMNS are multiplied by
Coordinates = Sequence[Values | np.ndarray] | Callable[[Array], Sequence[Array]]

FEW = 8  # samples, up to which their numbers one by one take the host less time than arrays
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
    used = _by_column(_differences([*basis, vector(1.0)], calls))
    kept = None if state is None else _by_column(_differences([state], calls))

    def sets_of(b: Sequence[Array]) -> list[list[Array]]:
        """The sets of weights, each in the order of COLUMNS."""
        first = _added_up(used, [*b, 1.0])
        return [first] if kept is None else [first, first, _added_up(kept, [1.0])]

    if not callable(coordinates) and not rescaled:
        constant = np.broadcast_arrays(
            *(value for row in sets_of([np.asarray(b_i) for b_i in coordinates]) for value in row)
        )
        return Rule(calls, weights=np.stack(constant, axis=-1).reshape(*constant[0].shape, -1, len(COLUMNS)))

    def sets_by(gram: Array) -> list[list[Array]]:
        b = coordinates(gram) if callable(coordinates) else [like(b_i, gram) for b_i in coordinates]
        if rescaled:
            factor = 1 + rescale * (_std_ratio(gram, [*(p_m * b_i for b_i in b), 1.0]) - 1)
            b = [*(factor * b_i for b_i in b), (factor - 1) / p_m]
        return sets_of(b)

    def formula(gram: Array) -> Array:
        if isinstance(gram, np.ndarray) and len(gram) <= FEW:
            return np.array([sets_by(Sample(rows, place)) for place, rows in enumerate(gram.tolist())])
        sets = sets_by(gram)
        out = zeros((len(gram), len(sets), len(COLUMNS)), gram)
        for k, row in enumerate(sets):
            for j, value in enumerate(row):
                out[:, k, j] = value
        return out

    return Rule(calls, basis=np.array(basis), formula=formula)


def _differences(vectors: Sequence[Vector], calls: tuple[int | None, ...]) -> list[Vector]:
    """The vectors as weights of m - u, u, m_2 - u, m_3 - u, x and the state; of the outputs where there is no u."""
    assert COLUMNS[1] == "uncond"
    if len(calls) < 2 or calls[1] is None:
        return list(vectors)
    return [[m, m + u + second + third, second, third, x, s] for m, u, second, third, x, s in vectors]


def _by_column(vectors: Sequence[Vector]) -> list[list[tuple[int, float]]]:
    """For each column the vectors that have a share in it, by number, and their shares."""
    return [[(i, v[j]) for i, v in enumerate(vectors) if v[j] != 0] for j in range(len(COLUMNS))]


def _added_up(columns: Sequence[Sequence[tuple[int, float]]], b: Sequence[Array]) -> list[Array]:
    """sum_i b_i v_i, column by column."""
    found: list[Array] = []
    for shares in columns:
        total: Array = 0.0
        for i, share in shares:
            total = total + (b[i] if share == 1 else b[i] * share)
        found.append(total)
    return found


def _std_ratio(gram: Array, y: Sequence[Array]) -> Array:
    """[B] std of the last vector by that of sum_i y_i v_i, over each sample; 1 where the latter is constant."""
    n = len(y)
    count = at_least(gram[:, n, n], 1.0)
    mean = sum(y[i] * gram[:, i, n] for i in range(n)) / count
    square = sum(y[i] * y[j] * gram[:, i, j] for i in range(n) for j in range(n)) / count
    mean_c = gram[:, n - 1, n] / count
    var, var_c = square - mean * mean, gram[:, n - 1, n - 1] / count - mean_c * mean_c
    xp = namespace(gram)
    varies = var > CONSTANT * square
    return xp.where(varies, xp.sqrt(at_least(var_c, 0.0) / xp.where(varies, var, 1.0)), 1.0)
