"""Exponential integrators in lambda: DPM-Solver, DPM-Solver++ and their SDEs are one family.

DPM-Solver (Lu et al. 2022, arXiv 2206.00927), DPM-Solver++ (Lu et al. 2022, arXiv 2211.01095).

x = alpha x0 + sigma eps is symmetric under alpha <-> sigma, x0 <-> eps, lambda <-> -lambda. With u the factor of the
predicted quantity D, w the other one and l = log(u / w), data form (D = x0, l = lambda) and noise form (D = eps,
l = -lambda) have the same exact solution, for h = l_t - l_s (2211.01095 eq. 8; 2206.00927 eq. 3.4):

    x_t = (w_t / w_s) x_s + u_t (psi_1(h) D + psi_2(h) h D' + psi_3(h) h^2 D'' + ...)

with psi_k(h) = h phi_k(-h). The reverse SDE with noise level eta (2211.01095 eq. 14 at eta = 1) has the same form with
w_t / w_s times e^(-eta h), psi at (1 + eta) h and the noise sigma_t sqrt(1 - e^(-2 eta h)) xi. In noise form and at
eta = 1 it has twice the weights of D and the noise sigma_t sqrt(e^(-2h) - 1) xi, h < 0.

Limits: an interval from alpha = 0 or to sigma = 0 is infinite in lambda. Its first-order step is exact in the limit
and is what these builders use there; history does not reach across it.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from ..row import BASE_UNCHANGED, LinearUpdate, Row
from ..schedule import Points, Schedule
from ..table import MAX_HISTORY


def phi(k: int, z: float) -> float:
    """phi_0 = e^z, phi_k(z) = (phi_{k-1}(z) - 1/(k-1)!) / z, phi_k(0) = 1/k!; by its series for |z| < 1."""
    # The recursion subtracts nearly equal numbers near 0 and loses digits with each k. The series' rest after 20 terms
    # is below 1 / 20! = 4e-19.
    if abs(z) < 1:
        return sum(z**n / math.factorial(n + k) for n in range(20))
    return math.expm1(z) / z if k == 1 else (phi(k - 1, z) - 1 / math.factorial(k - 1)) / z


def psi(k: int, h: float) -> float:
    """h phi_k(-h), whose limit at h = inf is 1/(k-1)!."""
    return 1 / math.factorial(k - 1) if h == math.inf else h * phi(k, -h)


class Side(NamedTuple):
    """One point as one form sees it: u is the factor of D, w the other one, log is log(u / w)."""

    u: float
    w: float
    log: float

    @classmethod
    def of(cls, point: Points, form: str) -> Side:
        """form: "data" or "noise"."""
        alpha, sigma, log_snr = float(point.alpha), float(point.sigma), float(point.log_snr)
        return cls(alpha, sigma, log_snr) if form == "data" else cls(sigma, alpha, -log_snr)


class Interval(NamedTuple):
    """From s to t: x_t = ratio x_s + u_t psi_k(H) ... with H = (1 + eta) h."""

    u: float
    ratio: float
    h: float
    eta: float = 0.0

    @classmethod
    def between(cls, s: Side, t: Side, eta: float = 0.0) -> Interval:
        """Both sides in one form."""
        # The ratio straight from the schedule's numbers; e^(-h) u_t / u_s is the same with more rounding.
        h = t.log - s.log
        return cls(t.u, t.w / s.w * (math.exp(-eta * h) if eta else 1.0), h, eta)

    def weight(self, k: int) -> float:
        """u_t psi_k((1 + eta) h)."""
        return self.u * psi(k, (1 + self.eta) * self.h)


def first_order(s: Points, t: Points, form: str) -> tuple[float, float]:
    """(weight of x, weight of D) of the exact step for constant D: DDIM. Finite wherever the form is."""
    a, b = Side.of(s, form), Side.of(t, form)
    # u_t psi_1(h) = u_t (1 - e^(-h)) by expm1: in short steps u_t - u_s w_t / w_s would cancel.
    if math.isfinite(b.log - a.log):
        step = Interval.between(a, b)
        return step.ratio, step.weight(1)
    # The same without lambda: E = (x_s - u_s D) / w_s is kept, x_t = u_t D + w_t E.
    return b.w / a.w, b.u - a.u * b.w / a.w


def is_finite(s: Points, t: Points) -> bool:
    """Whether the interval is finite in lambda."""
    return bool(np.isfinite(float(t.log_snr) - float(s.log_snr)))


def step_orders(
    points: Points, order: int, lower_order_final: bool, fewer_than: float = 15, max_ratio: float = math.inf
) -> list[int]:
    """The order of each multistep step: as many earlier intervals as are of use, fewer at the end of short runs.

    lower_order_final: where there are fewer steps than that, the last is of order 1 and the one before of at most 2.
    max_ratio: see `usable_before`.
    """
    count = len(points.t) - 1
    orders = []
    for i in range(count):
        limit = count - i if lower_order_final and count < fewer_than else order
        s, t = points.at(i), points.at(i + 1)
        inside = is_finite(s, t) and s.log_snr != t.log_snr  # an empty step has no ratio to the ones before
        orders.append(max(1, min(order, 1 + usable_before(points, i, max_ratio), limit)) if inside else 1)
    return orders


def finite_before(points: Points, i: int) -> int:
    """How many steps right before step i are finite in lambda, of as many as a row reads: they are of use to it."""
    near = points.at(slice(max(0, i - MAX_HISTORY), i)).log_snr
    broken = np.flatnonzero(~np.isfinite(near))
    return len(near) - 1 - int(broken[-1]) if len(broken) else len(near)


def usable_before(points: Points, i: int, max_ratio: float) -> int:
    """`finite_before`, but none where step i is more than max_ratio times as long in lambda as the one before it.

    Over so much longer a step the outputs' difference is extrapolated far beyond where it was taken: on grids that
    reach down to the least noise in one long last step this errs by several times what first order does.
    """
    finite = finite_before(points, i)
    log_snr = points.log_snr
    long = finite and abs(log_snr[i + 1] - log_snr[i]) > max_ratio * abs(log_snr[i] - log_snr[i - 1])
    return 0 if long else finite


def multistep(
    schedule: Schedule,
    points: Points,
    prediction: str,
    *,
    order: int,
    form: str = "data",
    correction: str = "midpoint",
    exact: bool = False,
    eta: float = 0.0,
    s_noise: float = 1.0,
    lower_order_final: bool = True,
    max_ratio: float = math.inf,
) -> list[Row]:
    """DPM-Solver multistep of order 1 to 3 (2211.01095 algorithm 2), ODE and SDE.

    correction: how order 2 weighs the difference of outputs, "midpoint" by psi_1 / 2, "heun" by psi_2 (Taylor).
    exact: order 3 weighs the second derivative in full. Every published code weighs half of it, which is second order.
    max_ratio: a step that is more than so many times as long in lambda as the one before is of first order.
    """
    if eta not in (0.0, 1.0) and form == "noise":
        raise ValueError(f"eta: expected 0 or 1 in noise form, got {eta}")
    orders = step_orders(points, order, lower_order_final, max_ratio=max_ratio)
    rows = []
    for i, p in enumerate(orders):
        s, t = points.at(i), points.at(i + 1)
        here = "data" if float(s.alpha) == 0 else form  # eps says nothing about x0 at alpha = 0
        noise: tuple[tuple[int, float], ...] = ()
        if not is_finite(s, t):
            # Over an infinite interval the fresh noise forgets all of x: e^(-eta h) = 0.
            x_weight, d_weight = first_order(s, t, here) if eta == 0 else (0.0, float(t.alpha))
            history: tuple[float, ...] = (d_weight,)
            spread = float(t.sigma)
        else:
            step = Interval.between(Side.of(s, here), Side.of(t, here), eta if here == "data" else 0.0)
            x_weight = step.ratio
            history = _differences(step, _ratios(points, i, p), correction, exact)
            # sigma_t sqrt(1 - e^(-2 eta h)): a small difference in short steps, of which expm1 keeps all digits.
            spread = float(t.sigma) * math.sqrt(-math.expm1(-2 * eta * abs(step.h)))
            # Noise form at eta = 1 (see the head of this file); h is negative there.
            if eta and here == "noise":
                history = tuple(2 * weight for weight in history)
                spread = float(t.sigma) * math.sqrt(abs(math.expm1(-2 * step.h)))
        if eta and spread:
            noise = ((i + 1, s_noise * spread),)
        rows.append(Row.at(s, here, prediction, LinearUpdate(x=x_weight, history=history, noise=noise)))
    return rows


def _ratios(points: Points, i: int, order: int) -> list[float]:
    """Lengths of the order - 1 intervals before step i over its own length, nearest first."""
    lengths = np.diff(points.at(slice(i + 1 - order, i + 2)).log_snr)[::-1]
    return [float(length / lengths[0]) for length in lengths[1:]]


def _differences(step: Interval, r: list[float], correction: str, exact: bool) -> tuple[float, ...]:
    """Weights of H_0, H_1, H_2 from the backward differences of 2211.01095 (appendix B, multistep)."""
    first = np.array([step.weight(1), 0.0, 0.0])
    if not r:
        return (float(first[0]),)
    # Differences of outputs over lambda in units of h: d1_0 of the newest two, d1_1 of the two before.
    d1_0 = np.array([1.0, -1.0, 0.0]) / r[0]
    if len(r) == 1:
        # psi_1 / 2 agrees with psi_2 to the order needed; it is what the midpoint rule makes of the integral.
        second = 0.5 * step.weight(1) if correction == "midpoint" else step.weight(2)
        return tuple(float(v) for v in (first + second * d1_0)[:2])
    d1_1 = np.array([0.0, 1.0, -1.0]) / r[1]
    # Through three outputs: h D' at the newest one, and the divided difference h^2 D'' / 2, which published codes use
    # as if it were h^2 D''.
    d1 = d1_0 + r[0] / (r[0] + r[1]) * (d1_0 - d1_1)
    d2 = (d1_0 - d1_1) / (r[0] + r[1]) * (2.0 if exact else 1.0)
    return tuple(float(v) for v in first + step.weight(2) * d1 + step.weight(3) * d2)


def singlestep(
    schedule: Schedule,
    points: Points,
    prediction: str,
    *,
    order: int,
    form: str = "data",
    correction: str = "midpoint",
    r1: float | None = None,
    r2: float = 2 / 3,
) -> list[Row]:
    """DPM-Solver singlestep: `order` evaluations a step (2206.00927 algorithms 1, 2, 4, 5; 2211.01095 algorithm 1).

    correction: "midpoint" as in the algorithms, "heun" the Taylor form. r1, r2: where in the step the stages lie,
    1/2 for order 2, 1/3 and 2/3 for order 3. Steps that are infinite in lambda take one first-order evaluation.
    """
    r1 = r1 if r1 is not None else (0.5 if order == 2 else 1 / 3)
    rows = []
    for i in range(len(points.t) - 1):
        s, t = points.at(i), points.at(i + 1)
        if order == 1 or not is_finite(s, t):
            here = "data" if float(s.alpha) == 0 else form
            x_weight, d_weight = first_order(s, t, here)
            rows.append(Row.at(s, here, prediction, LinearUpdate(x=x_weight, history=(d_weight,))))
            continue
        stages = [s] + [schedule.at_log_snr(s.log_snr + r * (t.log_snr - s.log_snr)) for r in (r1, r2)[: order - 1]]
        lines = stage_lines(stages, t, form, order, correction, r1, r2)
        for point, line in zip(stages, lines, strict=True):
            rows.append(Row.at(point, form, prediction, line, None if line is lines[-1] else BASE_UNCHANGED))
    return rows


def stage_lines(
    stages: list[Points], t: Points, form: str, order: int, correction: str, r1: float, r2: float, eta: float = 0.0
) -> list[LinearUpdate]:
    """The updates of one step's stages, each from the base; of the SDE's mean with eta."""
    # Every stage starts from the base x_s, which the outputs of earlier stages correct.
    s = Side.of(stages[0], form)
    to = [Interval.between(s, Side.of(p, form), eta) for p in (*stages[1:], t)]
    if order == 1:
        return [LinearUpdate(base=to[0].ratio, history=(to[0].weight(1),))]
    lines = [LinearUpdate(base=to[0].ratio, history=(to[0].weight(1),))]
    if order == 2:
        # D' = (D_1 - D_0) / (r1 h) over the whole step.
        c = (0.5 * to[1].weight(1) if correction == "midpoint" else to[1].weight(2)) / r1
        return [*lines, LinearUpdate(base=to[1].ratio, history=(c, to[1].weight(1) - c))]
    # The second stage lies r2 h from s: psi_2(r2 h) r2 h D' with D' = (D_1 - D_0) / (r1 h).
    c = r2 / r1 * to[1].weight(2)
    lines.append(LinearUpdate(base=to[1].ratio, history=(c, to[1].weight(1) - c)))
    first, second, third = (to[2].weight(k) for k in (1, 2, 3))
    if correction == "midpoint":
        # Of all outputs the end needs D_0 and D_2 alone; D_1 served to place D_2.
        c = second / r2
        return [*lines, LinearUpdate(base=to[2].ratio, history=(c, 0.0, first - c))]
    # Taylor form: D1 = (r2 d_1 - r1 d_2) / (r2 - r1), D2 = 2 (d_2 - d_1) / (r2 - r1), d_k = (D_k - D_0) / r_k
    d_2 = (third * 2 - second * r1) / (r2 - r1) / r2
    d_1 = (second * r2 - third * 2) / (r2 - r1) / r1
    return [*lines, LinearUpdate(base=to[2].ratio, history=(d_2, d_1, first - d_1 - d_2))]
