"""DDIM with any eta, and the samplers that are DDIM under other names.

DDIM (Song et al. 2021, arXiv 2010.02502, eq. 12 and 16), DDPM (Ho et al. 2020, arXiv 2006.11239, eq. 7),
Euler and ancestral Euler (Karras et al. 2022, arXiv 2206.00364; k-diffusion).

    x_t = alpha_t x0 + sqrt(sigma_t^2 - s^2) eps + s xi
    s = eta sigma_t sqrt(1 - (alpha_s sigma_t / alpha_t sigma_s)^2)

In the noise level sigma / alpha this is Euler's step down and noise back up, so `euler` and `euler_ancestral` are the
same rows; eta = 1 is the DDPM posterior with its smaller variance. All limits (alpha_s = 0, sigma_t = 0) are finite.
Where the noise level rises, the ratio in s is turned over: eta = 1 is the forward process, which adds noise alone.
"""

from __future__ import annotations

import math

from ..prediction import convert
from ..row import OUTPUT, LinearUpdate, Row
from ..schedule import Points, Schedule


def step_down(s: Points, t: Points, eta: float) -> tuple[float, float]:
    """(share of sigma_t that stays predicted noise, share that is drawn fresh), in units of sigma_t."""
    if eta == 0:
        return 1.0, 0.0
    # The ratio of sigma_t / alpha_t to sigma_s / alpha_s, crosswise: alpha_s and sigma_t may be 0. Sorted, it is at
    # most 1 also where the noise rises.
    low, high = sorted((float(s.alpha * t.sigma), float(t.alpha * s.sigma)))
    ratio = low / high if high else 1.0
    # With eta > 1 more than sigma_t may be asked for: then all of the noise is fresh.
    up = min(1.0, eta * math.sqrt(1 - ratio**2))
    # 1 - up^2 multiplied out: ratio^2 is far below 1 in long steps, and subtracting would lose it.
    return math.sqrt(max(0.0, 1 - eta**2 + (eta * ratio) ** 2)), up


def ddim_row(s: Points, t: Points, prediction: str, noise_index: int, eta: float = 0.0, s_noise: float = 1.0) -> Row:
    """The step from s to t, data form; from sigma = 0, towards noise, noise form."""
    # At sigma = 0 no eps follows from x and x0, so the model's eps is asked for: x_t = alpha_t x0 + sigma_t eps.
    if float(s.sigma) == 0:
        line = LinearUpdate(x=float(t.alpha / s.alpha), history=(float(t.sigma),))
        return Row.at(s, "noise", prediction, line)
    down, up = (float(t.sigma) * share for share in step_down(s, t, eta))
    # Eq. 12 with x0 = D and eps = (x_s - alpha_s D) / sigma_s, sorted by x_s and D.
    x_weight = down / float(s.sigma)
    noise = ((noise_index, s_noise * up),) if up else ()
    line = LinearUpdate(x=x_weight, history=(float(t.alpha) - float(s.alpha) * x_weight,), noise=noise)
    return Row.at(s, "data", prediction, line)


def ddim_clipped_row(s: Points, t: Points, prediction: str, share: float = 1.0, noise: float = 0.0) -> Row:
    """alpha_t x0 + share sigma_t eps + noise sigma_t xi, where a bound on x0 leaves eps as the model predicted it.

    Clean data have no noise that a model of x0 could tell: there it is 0.
    """
    untold = prediction == "sample" and float(s.sigma) == 0
    q_x, q_m = (0.0, 0.0) if untold else convert(prediction, "noise", float(s.alpha), float(s.sigma))
    weight, spread = share * float(t.sigma), noise * float(t.sigma)
    extra = ((OUTPUT, weight * q_m), (1, spread)) if noise else ((OUTPUT, weight * q_m),)
    return Row.at(s, "data", prediction, LinearUpdate(x=weight * q_x, history=(float(t.alpha),), noise=extra))


def ddim(schedule: Schedule, points: Points, prediction: str, *, eta: float = 0.0, s_noise: float = 1.0) -> list[Row]:
    """One row a step."""
    steps = range(len(points.t) - 1)
    return [ddim_row(points.at(i), points.at(i + 1), prediction, i + 1, eta, s_noise) for i in steps]
