"""Rows fitted one after the other, each by least squares on converged trajectories, by forward calls alone.

Row i is evaluated where the rows before it have led, as they are fitted. What its update then lacks to the trajectory's
state at the next point is explained by x, D_i and the differences of the latest outputs, with as many of them as
predict samples that were left out. Every element of every sample is an equation for a handful of unknowns, so a few
samples do. Newton's form of the outputs makes each further unknown a smaller correction, and the ridge hold it back.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import comb
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..plans.plan import Plan
from ..plans.table import MAX_HISTORY, OFFSET
from ..plans.turns import unknown_outputs
from ..sampling.registers import Registers, advance, moves_of
from .regression import Choice, Moments, Solution, choose, fitted
from .sources import Ask, Kept, Source
from .space import PlanSpace
from .trajectory import Trajectory, distances

MAX_ELEMENTS = 2**16  # of all samples in all settings that run together; each keeps some forty such tensors

Starts = Callable[[Plan], Tensor]  # the samples' first states [S, ...]


class Asked(NamedTuple):
    """A regression that a row asks for, with the choice to take again if there is one."""

    moments: Moments
    choice: Choice | None


Steps = Generator[Asked, Solution, None]


@dataclass(frozen=True)
class Setting:
    """A place in a plan space: numbers of which the weights are still the theory's.

    calls: under guidance, whether each row makes the unconditional call; all do where it is empty.
    """

    space: PlanSpace
    p: np.ndarray
    calls: tuple[bool, ...] = ()


@dataclass(frozen=True)
class Fitted:
    """A setting's numbers p with its weights fitted. x, each: [S, ...] the samples and their distances [S].

    choices: of features and ridge, for each regression in order. uncond: each row's `Row.uncond`, empty where all make
    the call.
    """

    p: np.ndarray
    x: Tensor
    each: np.ndarray
    choices: tuple[Choice, ...]
    uncond: tuple[tuple[float, ...], ...] = ()

    @property
    def mean(self) -> float:
        """The mean distance."""
        return float(self.each.mean())


class Forward:
    """Fits rows to trajectories.

    folds: [S] the fold of each sample; a sample is carried by weights that were fitted without its fold, so that its
    distance is an honest one. Fold -1 is never fitted to.
    """

    def __init__(self, source: Source, trajectory: Trajectory, starts: Starts, folds: np.ndarray) -> None:
        self.source, self.trajectory, self.starts, self.folds = source, trajectory, starts, folds

    @torch.no_grad()
    def run(
        self, settings: Sequence[Setting], crossed: bool = True, choices: Sequence[Choice] | None = None
    ) -> list[Fitted]:
        """Each setting with its weights fitted. crossed: as `folds` says, else by weights fitted to all samples.

        choices: those of another run, taken again, so that the result is smooth in the settings.
        """
        found: dict[int, Fitted] = {}
        for part in self._together([setting.space.plan for setting in settings]):
            runners = [self.runner(settings[place], crossed, choices) for place in part]
            found |= zip(part, self._run(runners), strict=True)
        return [found[place] for place in range(len(settings))]

    def _together(self, plans: Sequence[Plan]) -> Iterator[list[int]]:
        """The places of plans that run together: as many as there is memory for; with cheap rows, those of the same."""
        alike: dict[tuple[str, ...], list[int]] = {}
        for place, plan in enumerate(plans):
            alike.setdefault(tuple(row.call for row in plan.rows) if plan.partial else (), []).append(place)
        for calls, places in alike.items():
            filled = self.source.cheap_together  # by one call of the model
            most = filled if calls else max(filled, MAX_ELEMENTS // self.trajectory.end.numel())
            yield from (places[i : i + most] for i in range(0, len(places), most))

    def _run(self, runners: list[Runner]) -> list[Fitted]:
        kept: Kept | None = {} if runners[0].plan.partial else None
        for i in range(max(len(runner.moves) for runner in runners)):
            running = [runner for runner in runners if i < len(runner.moves)]
            outputs = self.outputs(running, i, kept)
            self._solve([runner.step(i, m) for runner, m in zip(running, outputs, strict=True)])
        return [runner.result() for runner in runners]

    def runner(self, setting: Setting, crossed: bool, choices: Sequence[Choice] | None) -> Runner:
        """What takes a setting through its rows."""
        return Runner(self, setting, crossed, choices)

    def outputs(self, running: Sequence[Runner], i: int, kept: Kept | None) -> list[Tensor]:
        """What the model says at row i of each setting, as its runner reads it. kept: as `Source.outputs` has it."""
        return self.source.outputs([runner.ask(i) for runner in running], kept)

    def _solve(self, steps: list[Steps]) -> None:
        """Answer the regressions that steps ask for, those of one size at once, until all are done."""
        asked = [(step, next(step)) for step in steps]
        while asked:
            left = []
            for size in {a.moments.size for _, a in asked}:
                here = [(step, a) for step, a in asked if a.moments.size == size]
                moments = Moments.stacked([a.moments for _, a in here])
                given = [a.choice for _, a in here]
                choices = [c for c in given if c] if all(given) else choose(moments, self.folds)
                for (step, _), solution in zip(here, fitted(moments, self.folds, choices), strict=True):
                    with suppress(StopIteration):
                        left.append((step, step.send(solution)))
            asked = left


class Runner:
    """One setting on its way through the rows."""

    def __init__(self, owner: Forward, setting: Setting, crossed: bool, choices: Sequence[Choice] | None) -> None:
        self.owner, self.setting, self.crossed = owner, setting, crossed
        self.given = None if choices is None else iter(choices)
        self.choices: list[Choice] = []
        self.uncond: list[tuple[float, ...]] = []
        self.p = setting.p.copy()
        self.plan = setting.space.rebuilt(setting.p[: setting.space.grid_size])
        self.table = setting.space.table(setting.p)
        # The weights may come to read outputs that the theory's rows do not.
        self.moves = [m._replace(reads=MAX_HISTORY) for m in moves_of(self.plan.rows, keeps=MAX_HISTORY)]
        self.unknown = unknown_outputs(self.plan.rows)
        x = owner.starts(self.plan).double()
        self.registers = Registers(x, x)

    def ask(self, i: int) -> Ask:
        x = self.registers.x
        return Ask(x * self.number(i, "c_in"), float(self.table[i, -1]), x, self.plan.rows[i], i)

    def step(self, i: int, m: Tensor) -> Steps:
        """The row, which asks for each regression that it needs."""
        row, (x, base, history) = self.plan.rows[i], self.registers
        d = self.number(i, "p_x") * x + self.number(i, "p_m") * m
        outputs = (d, *history)[:MAX_HISTORY]
        new_x = yield from self.line(i, "a", base, x, outputs, self.plan.point_after(i))
        new_base = None
        if row.base_move == "write":
            new_base = yield from self.line(i, "b", base, x, outputs, (row.alpha, row.sigma))
        self.registers = advance(self.registers, self.moves[i], lambda *_: (new_x, new_base, d))

    def result(self) -> Fitted:
        each = distances(self.registers.x, self.owner.trajectory.end).cpu().numpy()
        return Fitted(
            self.p, self.registers.x, np.nan_to_num(each, nan=np.inf), tuple(self.choices), tuple(self.uncond)
        )

    def number(self, i: int, name: str) -> float:
        return float(self.table[i, OFFSET[name]])

    def line(
        self, i: int, name: str, base: Tensor, x: Tensor, outputs: tuple[Tensor, ...], point: tuple[float, float]
    ) -> Generator[Asked, Solution, Tensor]:
        """The theory's x' or base', and what the regression adds to it."""
        terms = self.terms(i, name, base, x, outputs, point)
        solution = yield from self.solved(terms.features, terms.lacks)
        self.setting.space.add_weights(self.p, i, terms.weights(solution.b))
        return terms.theory + self.explained(solution, terms.features)

    def terms(
        self, i: int, name: str, base: Tensor, x: Tensor, outputs: tuple[Tensor, ...], point: tuple[float, float]
    ) -> Terms:
        """What the regression of a line is about."""
        states = {
            OFFSET[f"{name}_{which}"]: v for which, v in (("base", base), ("x", x)) if self.number(i, f"{name}_{which}")
        }
        first, known = OFFSET[name.upper()], range(self.unknown[i], len(outputs))
        places = [*states, *(first + k for k in known)]
        operands = [*states.values(), *(outputs[k] for k in known)]
        theory = combined([self.table[i, place] for place in places], operands)
        basis = newton(len(states), len(known))
        features = [combined(row, operands) for row in basis]
        return Terms(places, basis, features, theory, self.owner.trajectory.at(*point) - theory)

    def solved(self, features: list[Tensor], lacks: Tensor) -> Generator[Asked, Solution, Solution]:
        """The regression of what lacks on the features."""
        choice = None if self.given is None else next(self.given)
        solution = yield Asked(Moments.of(features, lacks), choice)
        self.choices.append(solution.choice)
        return solution

    def explained(self, solution: Solution, features: list[Tensor]) -> Tensor:
        """What the regression explains: of each sample by the weights from the others, where these are kept apart."""
        if not self.crossed:
            return combined(solution.b, features)
        shape = (-1, *[1] * (features[0].ndim - 1))
        parts = (torch.from_numpy(solution.apart[:, f]).to(v).view(shape) * v for f, v in enumerate(features))
        return sum(parts, torch.zeros_like(features[0]))


class Terms(NamedTuple):
    """places: of a line's weights in the flat row. basis: [F, F] the features in terms of what they multiply.

    features: F tensors [S, ...]. theory: [S, ...] the line without the regression. lacks: to the trajectory.
    """

    places: list[int]
    basis: np.ndarray
    features: list[Tensor]
    theory: Tensor
    lacks: Tensor

    def weights(self, b: np.ndarray) -> dict[int, float]:
        """What b [F] adds to the weights, by place."""
        return dict(zip(self.places, b @ self.basis, strict=True))


def newton(states: int, outputs: int) -> np.ndarray:
    """[F, F] the features in terms of the operands: the newest output, the states, backward differences of outputs."""
    basis = np.zeros((states + outputs, states + outputs))
    newest = range(states, states + min(outputs, 1))
    order = [*newest, *range(states), *range(states + 1, states + outputs)]
    for f, operand in enumerate(order):
        if operand < states:
            basis[f, operand] = 1.0
        else:
            k = operand - states
            basis[f, states : states + k + 1] = [(-1) ** j * comb(k, j) for j in range(k + 1)]
    return basis


def combined(weights: Sequence[float] | np.ndarray, operands: Sequence[Tensor]) -> Tensor:
    """The weighted sum; what has no weight is not read."""
    out = torch.zeros_like(operands[0])
    for weight, operand in zip(weights, operands, strict=True):
        if weight != 0:
            out = out.add(operand, alpha=float(weight))
    return out
