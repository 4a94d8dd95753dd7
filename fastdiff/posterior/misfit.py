"""Whether residuals are of the size that their noise says."""

from __future__ import annotations

import warnings

from torch import Tensor

LEAST = 1.5  # corrections are approximate, and steps few: what is nearer to 1 than by this factor is no misfit
SIGNIFICANT = 5.0  # standard errors


def warn_of_misfit(misfit: Tensor, count: Tensor) -> None:
    """Warn naming the argument where the chi-square of residuals is far from 1.

    misfit: [G] the mean of ((y - A x0) / noise)^2 over members and measurements. count: [G] measurements. y - A x0 of a
    draw x0 given y has the law of the noise, so count misfit is at most as scattered as chi-square with that many
    degrees of freedom; its cube root is about normal (Wilson & Hilferty 1931).
    """
    variance = 2 / (9 * count.clamp(min=1).double())
    errors = (misfit.double() ** (1 / 3) - (1 - variance)) / variance.sqrt()
    high = (misfit > LEAST) & (errors > SIGNIFICANT)
    low = (misfit < 1 / LEAST) & (errors < -SIGNIFICANT)
    for wrong, size in ((high, "small"), (low, "large")):
        if wrong.any():
            warnings.warn(
                f"observation: the chi-square of residuals is {float(misfit[wrong].mean()):.2g} per measurement where 1"
                f" is expected, in {int(wrong.sum())} of {len(misfit)} observations: its noise is stated too {size}, or"
                " the correction did not fit",
                stacklevel=3,
            )
