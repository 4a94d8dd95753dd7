"""The coefficient row: one model evaluation and the linear update that follows it, as the kernels read it.

A row is one record of `ROW`, the same C struct as `csrc/solver_step.h`. All fields are float64. With the history
`H_0 = D` (the output just converted), `H_1`, ... newest first, and standard normal noises `xi_j`:

    m     = m_u + guidance (m - m_u)
    D     = p_x x + p_m m,  clamped to [-clamp, clamp]
    x'    = a_base base + a_x x + sum_k A[k] H_k + sum_j xi_a[j] xi_noise[j]
    base' = b_base base + b_x x + sum_k B[k] H_k + sum_j xi_b[j] xi_noise[j]

and `c_in x'` is what the model reads next. An operand whose weights are all zero is not read; one that is read
in either line may spread its infinities and NaNs to both.

A call may have weights of its own for the outputs m, m_u, m_2 and m_3 of up to four evaluations, for x and for a state
s: sets of six numbers for each sample. Set k makes

    y_k   = w_m (m - m_u) + w_u m_u + w_2 (m_2 - m_u) + w_3 (m_3 - m_u) + w_x x + w_s s

and y_0 takes the place of m above. With two sets the history gets D made of y_1 instead; x' and base' use that of y_0.
With three, y_2 is the next state. What is absent counts as 0, and a weight of 0 takes nothing, not even from an
infinity. Differences come first: late in a run m is close to m_u.
"""

from __future__ import annotations

import numpy as np

MAX_HISTORY = 8
MAX_NOISE = 2

ROW = np.dtype(
    [
        ("p_x", "f8"),
        ("p_m", "f8"),
        ("clamp", "f8"),
        ("guidance", "f8"),
        ("c_in", "f8"),
        ("a_base", "f8"),
        ("a_x", "f8"),
        ("A", "f8", MAX_HISTORY),
        ("b_base", "f8"),
        ("b_x", "f8"),
        ("B", "f8", MAX_HISTORY),
        ("xi_a", "f8", MAX_NOISE),
        ("xi_b", "f8", MAX_NOISE),
        ("noise", "f8", MAX_NOISE),
    ]
)
WIDTH = ROW.itemsize // 8
assert ROW.names is not None  # for type checkers: it is a record
assert ROW.fields is not None
FIELDS = ROW.names
OFFSET = {name: int(ROW.fields[name][1]) // 8 for name in FIELDS}  # of a field's first number in the flat row


def empty_table(rows: int) -> np.ndarray:
    """A table of `rows` rows that do nothing: no clamp, guidance 1, c_in 1, every weight zero."""
    table = np.zeros(rows, dtype=ROW)
    table["clamp"] = np.inf
    table["guidance"] = 1.0
    table["c_in"] = 1.0
    return table


def flat_row(row: np.void) -> list[float]:
    """The record's numbers in the order of `ROW`."""
    return np.atleast_1d(row).view(np.float64).tolist()


def reads_history(row: np.void, k: int) -> bool:
    """Whether the row reads H_k."""
    return bool(row["A"][k] != 0 or row["B"][k] != 0)


def reads_noise(row: np.void, j: int) -> bool:
    """Whether the row draws its j-th noise."""
    return bool(row["xi_a"][j] != 0 or row["xi_b"][j] != 0)
