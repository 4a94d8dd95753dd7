"""Rules for y = c + sum_i b_i v_i: vectors v_i made of the outputs, with coordinates b_i from their inner products."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ..sampling.rule import COLUMNS, Rule
from .arrays import Array, Values, at_least, like, namespace, zeros

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

    def fill(out: Array, b: Sequence[Array]) -> Array:
        _add_up(out[..., 0, :], columns, [*b, 1.0])
        if kept is not None:
            out[..., 1, :] = out[..., 0, :]
            _add_up(out[..., 2, :], kept, [1.0])
        return out

    sets = 1 if state is None else 3
    if not callable(coordinates) and not rescaled:
        b = [np.asarray(b_i) for b_i in coordinates]
        batch = next((b_i.shape for b_i in b if b_i.ndim), ())
        return Rule(calls, weights=fill(np.zeros((*batch, sets, len(COLUMNS))), b))

    def formula(gram: Array) -> Array:
        b = coordinates(gram) if callable(coordinates) else [like(b_i, gram) for b_i in coordinates]
        if rescaled:
            factor = 1 + rescale * (_std_ratio(gram, [*(p_m * b_i for b_i in b), 1.0]) - 1)
            b = [*(factor * b_i for b_i in b), (factor - 1) / p_m]
        return fill(zeros((len(gram), sets, len(COLUMNS)), gram), b)

    return Rule(calls, basis=np.array(basis), formula=formula)


def _differences(vectors: Sequence[Vector], calls: tuple[int | None, ...]) -> list[Vector]:
    """The vectors as weights of m - u, u, m_2 - u, m_3 - u, x and the state; of the outputs where there is no u."""
    assert COLUMNS[1] == "uncond"
    if len(calls) < 2 or calls[1] is None:
        return list(vectors)
    return [[m, m + u + second + third, second, third, x, s] for m, u, second, third, x, s in vectors]


def _add_up(out: Array, vectors: Sequence[Vector], b: Sequence[Array]) -> None:
    """out [..., 6] = sum_i b_i v_i."""
    for j in range(len(COLUMNS)):
        terms = [b_i if v[j] == 1 else b_i * v[j] for b_i, v in zip(b, vectors, strict=True) if v[j] != 0]
        if terms:
            out[..., j] = sum(terms[1:], terms[0])


def _std_ratio(gram: Array, y: Sequence[Array]) -> Array:
    """[B] std of the last vector by that of sum_i y_i v_i, over each sample; 1 where the latter is constant."""
    n = len(y)
    count = at_least(gram[:, n, n], 1.0)
    weights = zeros((len(gram), n, 1), gram)
    for i, y_i in enumerate(y):
        weights[:, i, 0] = y_i
    products = (gram[:, :, :n] @ weights)[:, :, 0]  # of y with each vector and with 1
    square, mean = (products[:, :n] * weights[:, :, 0]).sum(-1) / count, products[:, n] / count
    var, var_c = square - mean**2, gram[:, n - 1, n - 1] / count - (gram[:, n - 1, n] / count) ** 2
    xp = namespace(gram)
    varies = var > CONSTANT * square
    return xp.where(varies, xp.sqrt(at_least(var_c, 0.0) / xp.where(varies, var, 1.0)), 1.0)
