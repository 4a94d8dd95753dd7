"""Return paths of a stock index by the shipped network `series`, beside history and GARCH.

python -m examples.finance [--quick] [--out FOLDER]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch

import fastdiff as fd
from bench.markdown import table
from fastdiff import demo

from .facts import FACTS, crps, facts, kupiec, pinball
from .history import HELD, LENGTH, Garch, Market, market
from .picture import draw

HORIZON, LEVELS = 20, (0.05, 0.01)
PAST = LENGTH - HORIZON
EVALUATIONS = (4, 10)

Forecast = Callable[[int, int], np.ndarray]  # (index, first day) -> returns [members, HORIZON] of these days


def paths(net: demo.DemoNetwork, plan: fd.Plan, count: int) -> torch.Tensor:
    """[count, 2, LENGTH] without a past."""
    noise = torch.randn(count, *net.shape, generator=torch.Generator().manual_seed(0))
    return torch.cat([fd.sample(net.model, plan, part) for part in noise.split(256)])


def continued(net: demo.DemoNetwork, past: torch.Tensor, count: int, evaluations: int, way: str) -> torch.Tensor:
    """[count, 2, LENGTH] whose first PAST days are those of past [2, PAST], by mask= or by observation=."""
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(count, *net.shape, generator=generator)
    plan = fd.plan(None, net.schedule, evaluations, prediction=net.prediction, guided=way == "observation")
    if way == "mask":
        image, mask = torch.zeros(count, *net.shape), torch.ones(net.shape)
        image[..., :PAST], mask[..., :PAST] = past, 0
        return fd.sample(net.model, plan, noise, image=image, mask=mask)
    seen = fd.Observation(lambda x: x[..., :PAST], past.expand(count, *past.shape), noise=0.02)
    return fd.sample(net.model, plan, noise, observation=seen)


def forecasters(net: demo.DemoNetwork, data: Market, count: int) -> Iterator[tuple[str, Forecast]]:
    """The methods by name; each is given the days before, and none after."""
    fits = [Garch.fitted(data.returns(days)) for days in data.days]
    history = [data.returns(days)[:-HELD] for days in data.days]
    yield "history", lambda i, day: np.repeat(history[i][:, None], HORIZON, axis=1)
    yield "GJR-GARCH-t", lambda i, day: fits[i].forecast(day, HORIZON, count)

    def by_network(i: int, day: int, evaluations: int, way: str) -> np.ndarray:
        past = data.days[i][:, day - PAST : day]
        return data.returns(continued(net, past, count, evaluations, way)[..., PAST:])

    for way, evaluations in (("mask", 20), ("observation", 10)):
        yield f"{way}=, {evaluations} evaluations", partial(by_network, way=way, evaluations=evaluations)


def back_test(forecast: Forecast, data: Market, blocks: int) -> tuple[list[object], np.ndarray]:
    """A line of the table, and the last forecast [count, HORIZON] of the first index.

    Each block of HORIZON held days is forecast from the days before it.
    """
    drawn, came = [], []
    for i, days in enumerate(data.days):
        r = data.returns(days)
        for day in range(len(r) - HELD, len(r) - HORIZON + 1, HORIZON)[:blocks]:
            drawn.append(forecast(i, day))
            came.append(r[day : day + HORIZON])
    pairs = list(zip(drawn, came, strict=True))
    line: list[object] = [f"{np.mean([crps(samples, r) for samples, r in pairs]):.4f}"]
    for level in LEVELS:
        bounds = [np.quantile(samples, level, axis=0) for samples in drawn]
        beyond = sum(int((r < bound).sum()) for bound, r in zip(bounds, came, strict=True))
        loss = np.mean([pinball(bound, r, level) for bound, r in zip(bounds, came, strict=True)])
        days_seen = HORIZON * len(came)
        line += [f"{beyond} of {days_seen}", f"{kupiec(beyond, days_seen, level):.2f}", f"{loss:.4f}"]
    return line, drawn[blocks - 1]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few paths")
    parser.add_argument("--out", type=Path, help="folder for the picture")
    asked = parser.parse_args(argv)
    count, members, blocks = (8, 4, 1) if asked.quick else (512, 128, HELD // HORIZON)
    data, net = market(), demo.network("series")

    made = {"history": data.learnt(), "GJR-GARCH-t": Garch.fitted(data.returns(data.days[0])).paths(count)}
    for evaluations in EVALUATIONS[:1] if asked.quick else EVALUATIONS:
        for name, solver in (("DDIM", "ddim"), ("fastdiff", None)):
            plan = fd.plan(solver, net.schedule, evaluations, prediction=net.prediction)
            made[f"{name}, {evaluations}"] = data.returns(paths(net, plan, count))
    lines = [(name, *(f"{v:.4f}" for v in facts(r))) for name, r in made.items()]
    print(f"Paths of {LENGTH} days\n\n{table(('paths', *FACTS), lines)}\n", flush=True)

    tests = {name: back_test(forecast, data, blocks) for name, forecast in forecasters(net, data, members)}
    head = [
        "forecast",
        "CRPS",
        *(f"{word} {level:.0%}" for level in LEVELS for word in ("below", "Kupiec p", "pinball")),
    ]
    print(f"Forecasts of {HORIZON} days\n\n{table(head, [(name, *line) for name, (line, _) in tests.items()])}")
    if asked.out is not None:
        draw(asked.out, made, {name: fan for name, (_, fan) in tests.items()}, data, blocks)


if __name__ == "__main__":
    main()
