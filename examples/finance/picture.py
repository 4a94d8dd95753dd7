"""Paths beside the market's, and the fans of forecasts over what came."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from .history import HELD, Market


def draw(
    folder: Path, made: Mapping[str, np.ndarray], fans: Mapping[str, np.ndarray], data: Market, blocks: int
) -> None:
    """finance.png in the folder: a path of each kind above, the last forecasts of the S&P 500 below."""
    from matplotlib.figure import Figure

    above = [name for name in made if name.split(",")[0] in ("history", "GJR-GARCH-t", "fastdiff")][:4]
    figure = Figure(figsize=(12, 5.5), layout="constrained")
    for k, name in enumerate(above):
        axes = figure.add_subplot(2, 4, k + 1, title=name, ylim=(-9, 9))
        axes.plot(made[name][len(made[name]) // 2], linewidth=0.6)
        axes.set_ylabel("daily return, %" if k == 0 else "")
    shown = [name for name in fans if name != "history"][:4]
    horizon = fans[shown[0]].shape[1]
    r = data.returns(data.days[0])
    begin = len(r) - HELD + (blocks - 1) * horizon
    past, came = np.cumsum(r[begin - 40 : begin]), np.cumsum(r[begin : begin + horizon])
    for k, name in enumerate(shown):
        axes = figure.add_subplot(2, 4, 5 + k, title=name)
        ahead = past[-1] + np.cumsum(fans[name], axis=1)
        for low, high, shade in ((0.01, 0.99, 0.15), (0.05, 0.95, 0.25), (0.25, 0.75, 0.4)):
            band = np.quantile(ahead, (low, high), axis=0)
            axes.fill_between(np.arange(horizon), *band, alpha=shade, color="tab:blue", linewidth=0)
        axes.plot(np.arange(-40, 0), past, color="black", linewidth=1)
        axes.plot(np.arange(horizon), past[-1] + came, color="tab:red", linewidth=1)
        axes.set_xlabel("days")
        axes.set_ylabel("sum of returns, %" if k == 0 else "")
    folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(folder / "finance.png", dpi=80)
