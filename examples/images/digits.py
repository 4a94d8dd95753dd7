"""Digits made by class, changed into the next class, and completed from their upper halves."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

import fastdiff as fd
from fastdiff import demo

from . import peers
from .judge import Judge

HEAD = ("method", "evaluations", "distance", "agreement", "precision", "density", "recall", "coverage")
Draw = Callable[[int], Tensor]


class Digits:
    """count pictures of each task. Each task is a table of methods, number of evaluations -> pictures."""

    def __init__(self, count: int) -> None:
        self.net, self.seeds = demo.network("mnist"), range(count)
        self.noise = fd.noise.randn((count, *self.net.shape), self.seeds)
        self.image = self.net.examples.repeat(count // 16 + 1, 1, 1, 1)[:count]
        self.shown = self.net.labels.repeat(count // 16 + 1)[:count]  # what is in the image
        self.mask = torch.zeros(self.net.shape)
        self.mask[:, 7:] = 1  # the lower half is generated

    def tasks(self) -> dict[str, tuple[Tensor, dict[str, Draw]]]:
        """(labels asked for, methods) by the task's name."""
        by_class = torch.tensor(list(self.seeds)) % 10
        return {
            "by class": (by_class, self.made(by_class)),
            "into the next digit": ((self.shown + 1) % 10, self.edited((self.shown + 1) % 10, None)),
            "lower half": (self.shown, self.edited(self.shown, self.mask)),
        }

    def model(self, y: Tensor) -> peers.Model:
        return lambda x, t: self.net.model(x, t, y=y)

    def made(self, y: Tensor) -> dict[str, Draw]:
        def ours(steps: int) -> Tensor:
            return fd.sample(self.net.model, fd.plan(None, self.net.schedule, steps), self.noise, y=y)

        def own(name: str) -> Draw:
            return lambda steps: peers.generate(name, self.model(y), self.noise, steps)

        return {"fastdiff": ours, **{name: own(name) for name in peers.SCHEDULERS}}

    def traced(self, steps: int) -> fd.Trace:
        """What happens in a run by class: `fastdiff.trace`."""
        y, plan = self.tasks()["by class"][0], fd.plan(None, self.net.schedule, steps)
        return fd.trace(self.net.model, plan, self.noise, seeds=self.seeds, y=y)

    def edited(self, y: Tensor, mask: Tensor | None) -> dict[str, Draw]:
        """From noise of 2/3 (changing) or 1 (completing) on, the same in both."""
        share = 1 / 2 if mask is None else 0.0

        def ours(steps: int) -> Tensor:
            start = float(self.net.schedule.shift_time(np.float64(1 - share)))
            times = start * (1 - np.arange(steps + 1) / steps) ** 1.5
            plan = fd.plan("adams_moulton", self.net.schedule, sigmas=times, order=2)
            return fd.sample(self.net.model, plan, self.noise, image=self.image, mask=mask, y=y)

        def own(steps: int) -> Tensor:
            skipped = round(steps * share / (1 - share))
            return peers.edit(self.model(y), self.image, self.noise, steps, skipped, mask)

        return {"fastdiff": ours, "diffusers Euler": own}


def rows(judge: Judge, y: Tensor, methods: dict[str, Draw], counts: tuple[int, ...], fine: int) -> Iterator[list[str]]:
    """distance: the median over pictures, root mean square over pixels, from the run of `fine` steps."""
    converged = methods["fastdiff"](fine)
    for count in counts:
        for name, draw in methods.items():
            x = draw(count)
            distance = (x - converged).square().flatten(1).mean(1).sqrt().median()
            shares = judge.shares(x)
            cells = [getattr(shares, key) for key in HEAD[4:]]
            yield [name, str(count), *(f"{value:.3f}" for value in (distance, judge.agreement(x, y), *cells))]
