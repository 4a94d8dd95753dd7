"""Days of the S&P 500 and the NASDAQ, 1999 to 2018, which ship with arch; the last 320 were kept from the network."""

from __future__ import annotations

from typing import NamedTuple

import arch
import numpy as np
import torch
from arch.data import nasdaq, sp500
from torch import Tensor

from fastdiff.demo.data import daily

LENGTH = 256  # days of a path, about a year
HELD = LENGTH + 64
PERCENT = 100.0


class Market(NamedTuple):
    """days: of each index [2, days], return and log log range, standardized as the network's. mean, std [2, 1]."""

    days: list[Tensor]
    mean: Tensor
    std: Tensor

    def returns(self, x: Tensor) -> np.ndarray:
        """Daily returns in percent, [...] of standardized [..., 2, days]."""
        return PERCENT * (x[..., 0, :] * self.std[0] + self.mean[0]).double().numpy()

    def learnt(self) -> np.ndarray:
        """Returns [paths, LENGTH] of the days that the network learnt from."""
        known = [self.returns(days)[:-HELD] for days in self.days]
        return np.concatenate([r[: len(r) // LENGTH * LENGTH].reshape(-1, LENGTH) for r in known])


def market() -> Market:
    days = [daily(table.load()) for table in (sp500, nasdaq)]
    whole = torch.cat(days, dim=1)
    mean, std = whole.mean(1, keepdim=True), whole.std(1, keepdim=True)
    return Market([(x - mean) / std for x in days], mean, std)


class Garch(NamedTuple):
    """GJR-GARCH(1, 1) with Student's t, the usual model of volatility, fitted to days before the held ones."""

    model: object
    parameters: np.ndarray

    @classmethod
    def fitted(cls, returns: np.ndarray) -> Garch:
        model = arch.arch_model(returns, p=1, o=1, q=1, dist="t")
        return cls(model, np.asarray(model.fit(last_obs=len(returns) - HELD, disp="off").params))

    def paths(self, count: int, seed: int = 0) -> np.ndarray:
        """[count, LENGTH] without a past, cut from one long path."""
        self.model.distribution._generator = np.random.RandomState(seed)  # type: ignore[attr-defined]
        long = self.model.simulate(self.parameters, count * LENGTH, burn=500)["data"]  # type: ignore[attr-defined]
        return long.to_numpy().reshape(count, LENGTH)

    def forecast(self, begin: int, horizon: int, count: int) -> np.ndarray:
        """[count, horizon] of the days from `begin` on, given all before."""
        fixed = self.model.fix(self.parameters)  # type: ignore[attr-defined]
        made = fixed.forecast(
            start=begin - 1, horizon=horizon, method="simulation", simulations=count, reindex=False,
            random_state=np.random.RandomState(begin),
        )  # fmt: skip
        return made.simulations.values[0]
