"""Where the rows' outputs come from while they are fitted: the model, or what its trajectories say about it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from ..plans.prediction import convert
from ..plans.row import Row
from ..plans.schedule import Schedule
from ..sampling.partial import Here
from .partial_run import PartialRun
from .target import FitTarget
from .trajectory import Trajectory


class Ask(NamedTuple):
    """One evaluation: what the model reads [S, ...], the time it is told, where x [S, ...] stands, the row's number."""

    given: Tensor
    t: float
    x: Tensor
    row: Row
    i: int


Kept = dict[int, PartialRun]  # of plans with cheap rows that run together, by the first place of each part


class Source(Protocol):
    """Answers evaluations of the same samples by several plans.

    cheap_together: how many plans with cheap rows may run together.
    """

    cheap_together: int

    def outputs(self, asked: Sequence[Ask], kept: Kept | None = None) -> list[Tensor]:
        """[S, ...] for each. kept: of plans with cheap rows, what is known of their run so far; {} at the first row.

        Plans with cheap rows have the same calls, and ask at every row in the same order.
        """


# A fit should take little more memory than drawing does.
MAX_ANSWERED = 2**21  # elements of the questions that came up last, whose answers are kept
MAX_KNOWN, MAX_LEVELS = 2**19, 256  # elements of states, and levels, that are kept from one setting for the next


class _Answer:
    """What the model says to an evaluation, once it has been asked. given: as the model reads it."""

    def __init__(self, given: Tensor, t: float) -> None:
        self.given, self.t = given, t
        self.output: Tensor

    def is_to(self, given: Tensor, t: float) -> bool:
        """Whether the evaluation is this one, to the bit."""
        return t == self.t and torch.equal(given, self.given)


class ModelSource:
    """The model, called with all plans' samples together, `target.together` at once.

    Plans that differ from a row on are one plan before it: what the model has been asked lately is not asked again.
    output: (x, t, places) -> what is read of the model; `target.output` where not given.
    """

    def __init__(
        self, target: FitTarget, places: Tensor, output: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None
    ) -> None:
        self.target, self.places, self._output = target, places, output or target.output
        # What full calls leave is no more than one call of the model makes.
        self.cheap_together = 1 if target.cheap_apart else max(1, target.together // len(places))
        self._answers: list[_Answer] = []
        self._most = MAX_ANSWERED // (len(places) * target.noise[0].numel())

    def outputs(self, asked: Sequence[Ask], kept: Kept | None = None) -> list[Tensor]:
        if kept is not None:  # what a cheap call says depends on the run
            return self._in_runs(asked, kept)
        new: list[_Answer] = []
        answers = [self._answer(ask, new) for ask in asked]
        if new:
            for answer, output in zip(new, self._evaluated(new), strict=True):
                answer.output = output
        used = dict.fromkeys(answers)
        latest = [*(answer for answer in self._answers if answer not in used), *used]
        self._answers = latest[max(0, len(latest) - self._most) :]
        return [answer.output.double() for answer in answers]

    def _answer(self, ask: Ask, new: list[_Answer]) -> _Answer:
        """A known one, or one that is now among the new ones, whose output is to come."""
        given = ask.given.to(self.target.noise.dtype)
        for answer in (*new, *self._answers):
            if answer.is_to(given, ask.t):
                return answer
        new.append(_Answer(given, ask.t))
        return new[-1]

    def _evaluated(self, asked: Sequence[_Answer]) -> list[Tensor]:
        count = len(self.places)
        x, t = _joined(asked, count)
        places = self.places.repeat(len(asked))
        found = []
        for part in torch.arange(len(x)).split(self.target.together):
            self.target.budget.check()
            found.append(self._output(x[part], t[part], places[part]))
        return [output.clone() for output in torch.cat(found).split(count)]  # each is kept as long as it is used

    def _in_runs(self, asked: Sequence[Ask], kept: Kept) -> list[Tensor]:
        """The same in runs that remember: each part of the samples keeps what its own full calls left."""
        count, row = len(self.places), asked[0].row
        x, t = _joined(asked, count)
        log_snr = torch.tensor([ask.row.log_snr for ask in asked], dtype=torch.float64).repeat_interleave(count)
        places = self.places.repeat(len(asked))
        found = []
        for part in torch.arange(len(x)).split(self.target.together):
            self.target.budget.check()
            run = kept.setdefault(int(part[0]), PartialRun(self.target, places[part]))
            found.append(run.output(x[part], t[part], Here(asked[0].i, row.call, log_snr[part])).double())
        return list(torch.cat(found).split(count))


def _joined(asked: Sequence[Ask | _Answer], count: int) -> tuple[Tensor, Tensor]:
    """x and t of all samples of all evaluations."""
    t = torch.tensor([ask.t for ask in asked], dtype=torch.float64).repeat_interleave(count)
    return torch.cat([ask.given for ask in asked]), t


class LinearSource:
    """The model near its trajectories, without a call: D = D* + gain (x - x*).

    D* and x* are the trajectory's; gain = alpha v / (alpha^2 v + sigma^2) is how the best denoiser of Gaussian data of
    variance v answers a displacement, v that of the converged samples. A cheap call is a full one to it.
    """

    cheap_together = 1

    def __init__(self, trajectory: Trajectory) -> None:
        self.trajectory, self._variance = trajectory, float(trajectory.end.double().var())
        self._levels = min(MAX_LEVELS, max(1, MAX_KNOWN // trajectory.end.numel()))
        self._known: dict[tuple[float, float], tuple[Tensor, Tensor]] = {}

    def outputs(self, asked: Sequence[Ask], kept: Kept | None = None) -> list[Tensor]:
        return [self._output(ask) for ask in asked]

    def _output(self, ask: Ask) -> Tensor:
        row = ask.row
        alpha, sigma = row.alpha, row.sigma
        data = self.data(ask.x, alpha, sigma)
        if row.form == "data":
            d = data
        elif sigma == 0 or row.form == "mixed":
            return torch.full_like(data, torch.nan)  # nothing is known about such an output
        else:
            noise = (ask.x - alpha * data) / sigma
            d = noise if row.form == "noise" else noise - data
        return (d - row.p_x * ask.x) / row.p_m if row.p_m else torch.zeros_like(d)

    def data(self, x: Tensor, alpha: float, sigma: float) -> Tensor:
        """D [S, ...] at x [S, ...]."""
        known, data = self._on_trajectory(alpha, sigma)
        gain = alpha * self._variance / (alpha**2 * self._variance + sigma**2) if sigma else 1 / alpha
        return data + gain * (x - known)

    def _on_trajectory(self, alpha: float, sigma: float) -> tuple[Tensor, Tensor]:
        if (alpha, sigma) not in self._known:
            if len(self._known) >= self._levels:
                self._known.clear()
            self._known[alpha, sigma] = self.trajectory.at(alpha, sigma), self.trajectory.data_at(alpha, sigma)
        return self._known[alpha, sigma]


class LinearModel:
    """The same as a model (x, t) -> its prediction, for plans as they are."""

    def __init__(self, source: LinearSource, schedule: Schedule, prediction: str) -> None:
        self.source, self.schedule, self.prediction = source, schedule, prediction

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        point = self.schedule.at(float(t[0]))
        alpha, sigma = float(point.alpha), float(point.sigma)
        p_x, p_m = convert(self.prediction, "data", alpha, sigma)
        return (self.source.data(x, alpha, sigma) - p_x * x) / p_m if p_m else torch.zeros_like(x)
