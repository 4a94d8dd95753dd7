"""CFG++ (Chung et al. 2024, arXiv 2406.08070): the guided data with the noise of the unconditional output.

With D the guided and U the unconditional output, x + alpha (D - U) has D as its data and (x - alpha U) / sigma as its
noise. CFG++ takes a solver's step on D from there. Euler's is x' = alpha' D + sigma' (x - alpha U) / sigma.

A plain solver's rows become those of CFG++ with one operand more, which takes the place of a noise (OTHER). They run on
U and read D; or, where a step has stages, they run on D and read U as it was at the beginning of the step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import Tensor

from ..plans.row import Row
from ..plans.schedule import Points, Schedule

OTHER = 0  # the operand's number among a row's noises: those that are drawn begin at 1
Build = Callable[..., list[Row]]


class Unconditional:
    """Catches the unconditional output of a host's guider at every call, with its hook that runs after guidance.

    staged: the rows are those of `on_guided`, otherwise of `on_uncond`.
    """

    def __init__(self, extra_args: dict[str, Any] | None, staged: bool = False) -> None:
        options = dict((extra_args or {}).get("model_options", {}))
        options["sampler_post_cfg_function"] = [*options.get("sampler_post_cfg_function", []), self._hook]
        options["disable_cfg1_optimization"] = True
        self.extra_args = {**(extra_args or {}), "model_options": options}
        self.staged = staged
        self._latest: Tensor | None = None

    def _hook(self, args: dict[str, Tensor]) -> Tensor:
        self._latest = args["uncond_denoised"]
        return args["denoised"]

    def operands(self, guided: Tensor) -> tuple[Tensor, Tensor]:
        """(what the row runs on, OTHER), of the last call. Raises ValueError if the model did not call the hook."""
        if self._latest is None:
            raise ValueError(
                "cfg_pp: expected a model with ComfyUI's guidance, which calls"
                " model_options['sampler_post_cfg_function']; this one did not"
            )
        uncond, self._latest = self._latest, None
        return (guided, uncond) if self.staged else (uncond, guided)


def reads_other(row: Row) -> bool:
    """Whether the row has the operand."""
    return any(index == OTHER for index, _ in row.x.noise)


def on_uncond(build: Build, share: Callable[[Row], float]) -> Build:
    """A solver with one evaluation a step: its rows run on U, and share(row) (D - U) is added to x'."""

    def rows_of(schedule: Schedule, points: Points, prediction: str, **options: Any) -> list[Row]:
        return [_with_guided(row, share(row)) for row in build(schedule, points, prediction, **options)]

    return rows_of


def _with_guided(row: Row, share: float) -> Row:
    # U = (H_0 - p_x x) / p_m is taken out of what the row has at hand, and D is read.
    line = row.x
    first, *earlier = line.history or (0.0,)
    history = (first - share / row.p_m, *earlier)
    x = line.x + share * row.p_x / row.p_m
    return replace(row, x=replace(line, x=x, history=history, noise=((OTHER, share), *line.noise)))


def on_guided(build: Build) -> Build:
    """A solver in data form whose stages start from the base: its rows run on D, from x + alpha (D - U).

    D is that of the step's first evaluation and U the latest, as in ComfyUI.
    """

    def rows_of(schedule: Schedule, points: Points, prediction: str, **options: Any) -> list[Row]:
        rows, stage, alpha = [], 0, 1.0
        for row in build(schedule, points, prediction, **options):
            alpha = alpha if stage else row.alpha
            rows.append(_from_guided(row, stage, alpha))
            stage = 0 if row.accepts else stage + 1
        return rows

    return rows_of


def _from_guided(row: Row, stage: int, alpha: float) -> Row:
    line = row.x
    share = alpha * (line.base if stage else line.base + line.x)
    history = [*line.history, *[0.0] * (stage + 1 - len(line.history))]
    history[stage] += share
    return replace(row, x=replace(line, history=tuple(history), noise=((OTHER, -share), *line.noise)))


def in_step(row: Row) -> float:
    """The share of D - U where the step from x + alpha (D - U) has D as its newest output. For data form."""
    return row.alpha * row.x.x + (row.x.history[0] if row.x.history else 0.0)


def in_start(row: Row) -> float:
    """The share of D - U where D stands in the starting point alone, as ComfyUI's RES has it from order 2 on."""
    return row.alpha * row.x.x if len(row.x.history) > 1 else in_step(row)
