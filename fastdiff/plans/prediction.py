"""What the model predicts, as linear forms: D = p_x x + p_m m, from x = alpha x0 + sigma eps.

    epsilon          m = eps                                   (Ho et al. 2020)
    sample           m = x0
    v_prediction     m = alpha eps - sigma x0                  (Salimans & Ho 2022, appendix D)
    flow_prediction  m = eps - x0                              (Liu et al. 2023)
    score            m = -eps / sigma                          (Song et al. 2021)

Solvers ask for D in data form (x0), noise form (eps) or flow form (eps - x0).
"""

from __future__ import annotations

import math

PREDICTIONS = ("epsilon", "sample", "v_prediction", "flow_prediction", "score")
FORMS = ("data", "noise", "flow")


def mixture(prediction: str, alpha: float, sigma: float) -> tuple[float, float]:
    """(a, b) of the prediction m = a eps + b x0 at one point."""
    return {
        "epsilon": (1.0, 0.0),
        "sample": (0.0, 1.0),
        "v_prediction": (alpha, -sigma),
        "flow_prediction": (1.0, -1.0),
        "score": (-1.0 / sigma if sigma else math.inf, 0.0),
    }[prediction]


def convert(prediction: str, form: str, alpha: float, sigma: float) -> tuple[float, float]:
    """(p_x, p_m) at one point. Raises ValueError where the prediction leaves D undetermined (alpha = 0, sigma = 0).

    m = a eps + b x0 together with x = alpha x0 + sigma eps is a 2 by 2 linear system; D is one of its unknowns.
    """
    if prediction not in PREDICTIONS:
        raise ValueError(f"prediction: expected one of {', '.join(PREDICTIONS)}, got {prediction!r}")
    if (prediction, form) == ("sample", "data"):
        return 0.0, 1.0
    a, b = mixture(prediction, alpha, sigma)
    determinant = a * alpha - b * sigma
    if determinant == 0 or not math.isfinite(determinant):
        raise ValueError(
            f"prediction: {prediction} says nothing about x0 at zero signal-to-noise ratio (alpha = 0); the model must"
            " predict sample, v_prediction or flow_prediction to start there"
            if alpha == 0
            else f"prediction: {prediction} says nothing about the noise where sigma = 0"
        )
    data, noise = (a / determinant, -sigma / determinant), (-b / determinant, alpha / determinant)
    if form == "flow":
        return noise[0] - data[0], noise[1] - data[1]
    return data if form == "data" else noise
