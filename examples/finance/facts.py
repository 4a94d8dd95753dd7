"""What every return path has: heavy tails, clusters of volatility, leverage; and how a forecast of risk is judged."""

from __future__ import annotations

import numpy as np
from scipy.stats import chi2

FACTS = ("kurtosis", "Hill index", "ACF of squares", "leverage", "ACF of returns")


def facts(r: np.ndarray) -> tuple[float, ...]:
    """Of returns [paths, days], in the order of FACTS.

    Kurtosis is 3 for a normal law. The Hill index is that of the worst 5 % of days: their tail falls as its power.
    The autocorrelation of squares is a mean over lags of 1 to 10 days; leverage is the correlation of a day's return
    with the squares of the next 1 to 5: falls make days to come wilder.
    """
    z = (r - r.mean()) / r.std()
    losses = np.sort(-r.ravel())[::-1]
    worst = losses[: max(2, len(losses) // 20)]
    hill = 1 / np.mean(np.log(worst[:-1] / worst[-1]))
    squares = np.mean([correlation(r[:, :-k] ** 2, r[:, k:] ** 2) for k in range(1, 11)])
    leverage = np.mean([correlation(r[:, :-k], r[:, k:] ** 2) for k in range(1, 6)])
    return float(np.mean(z**4)), float(hill), float(squares), float(leverage), correlation(r[:, :-1], r[:, 1:])


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(a.ravel(), b.ravel())[0, 1])


def kupiec(violations: int, days: int, level: float) -> float:
    """The p-value of Kupiec's test (1995): -2 log of the ratio of binomial likelihoods, chi-squared of one degree."""

    def log_likelihood(p: float) -> float:
        quiet = days - violations
        return (violations * np.log(p) if violations else 0.0) + (quiet * np.log1p(-p) if quiet else 0.0)

    return float(chi2.sf(2 * (log_likelihood(violations / days) - log_likelihood(level)), 1))


def pinball(quantile: np.ndarray, r: np.ndarray, level: float) -> float:
    """The loss whose minimum is the true quantile, a mean over days."""
    return float(np.mean((level - (r < quantile)) * (r - quantile)))


def crps(samples: np.ndarray, r: np.ndarray) -> float:
    """The continuous ranked probability score of [members, days] against [days], a mean over days; less is better."""
    ordered, n = np.sort(samples, axis=0), len(samples)
    weights = (2 * np.arange(1, n + 1) - n - 1)[:, None]
    return float(np.mean(np.abs(samples - r).mean(0) - (weights * ordered).sum(0) / n**2))
