"""What a client may ask for, and the plan and options that it becomes."""

from __future__ import annotations

import functools
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

import fastdiff as fd
from fastdiff import demo

MOST_SAMPLES = 8

Seed = Annotated[int, Field(ge=0, lt=2**63)]
Label = Annotated[int, Field(ge=0, lt=demo.NUM_CLASSES)]


class Draw(BaseModel):
    """The body of POST /draw.

    seeds: one for each sample. label: the digit, one for all samples or one each; none in particular if left out.
    solver: a name of fastdiff's catalogue, "fitted" for a plan that ships with the model, or nothing for the default.
    previews: send the predicted digits after every so many steps; 0 for never. timeout: seconds until it is given up.
    raw: send the samples' numbers too, float32 in base64.
    """

    model_config = ConfigDict(extra="forbid")

    seeds: Annotated[list[Seed], Field(min_length=1, max_length=MOST_SAMPLES)]
    label: Label | list[Label] | None = None
    guidance: Annotated[float, Field(ge=-50, le=50)] | None = None
    solver: str | None = None
    steps: Annotated[int, Field(ge=1, le=100)] = 8
    grid: str | None = None
    previews: Annotated[int, Field(ge=0)] = 0
    timeout: Annotated[float, Field(gt=0, le=600)] = 60.0
    raw: bool = False

    def plan(self) -> fd.Plan:
        """The plan. Raises ValueError naming what is wrong."""
        return _plan(self.solver, self.steps, self.grid, self.guidance is not None)

    def options(self) -> dict[str, Any]:
        """The options of `StepBatch.add`. Raises ValueError where there are not as many labels as seeds."""
        labels = self.label if isinstance(self.label, list) else [self.label] * len(self.seeds)
        if len(labels) != len(self.seeds):
            raise ValueError(f"label: expected one, or {len(self.seeds)} as there are seeds, got {len(labels)}")
        told = [demo.NUM_CLASSES if label is None else label for label in labels]
        return {"seeds": self.seeds, "guidance": self.guidance, "conditions": {"y": told}}


@functools.lru_cache(maxsize=256)  # equal requests share one plan, and its rows on the device
def _plan(solver: str | None, steps: int, grid: str | None, guided: bool) -> fd.Plan:
    if solver == "fitted":
        if grid is not None:
            raise ValueError("grid: a fitted plan has its own")
        return demo.fitted_plan(steps)
    options: dict[str, Any] = {"guided": guided} if solver is None else {}
    if grid is not None:
        options["grid"] = grid
    return fd.plan(solver, demo.schedule(), steps, prediction=demo.PREDICTION, **options)
