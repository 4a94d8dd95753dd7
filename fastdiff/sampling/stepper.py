"""stepper: a plan's run that the caller drives, for hosts that own the loop and call the model themselves."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

import torch
from torch import Tensor

from ..keywords import check_keywords
from ..ops import checks
from ..plans.plan import Plan
from .asking import Ask, Asking
from .correction import Correction, Observed
from .particles import Particles
from .request import Request
from .rule import Guidance
from .sample import Step, step_after
from .sharded import Sharded
from .start import OPTIONS

# What needs the model, or watches a run from within.
REFUSED = {
    "graph": "only a model that fastdiff calls can be captured",
    "parallel": "rows of a turn share a call that fastdiff makes",
    "callback": "look at s.step after s.advance",
    "progress": "the bar is the host's: len(s) rows are left",
    "return_trajectory": "keep s.x.clone() where s.step.accepted",
}


def stepper(
    plan: Plan,
    noise: Tensor,
    *,
    guidance: float | Tensor | Guidance | None = None,
    uncond: Mapping[str, object] | None = None,
    guidance_mode: str = "batch",
    seeds: Sequence[int] | Tensor | None = None,
    image: Tensor | None = None,
    mask: Tensor | None = None,
    clamp: float | None = None,
    threshold: float | None = None,
    threshold_limit: float = 1.0,
    model_dtype: torch.dtype | None = None,
    observation: Observed | None = None,
    correction: str | Correction | Callable | None = None,
    particles: int = 1,
    shard: Sharded | None = None,
    **kwargs: object,
) -> Stepper:
    """A run of a plan that the caller drives: it calls the model, `advance` runs the row.

    Arguments are those of `sample`, and so are the samples, bit for bit. kwargs come back as `conditions`.
    Cheap rows, guidance_mode="ranks", graph, parallel, callback, progress and return_trajectory are not for runs that
    the host drives. Raises TypeError or ValueError naming the argument.

    >>> s = stepper(fd.plan("unipc", fd.Schedule.flow(), steps=8), torch.randn(16, 3))
    >>> velocity = lambda x, t: (2 * t - 1).view(-1, 1) * x / ((1 - t) ** 2 + t**2).view(-1, 1)  # of unit Gaussian data
    >>> while not s.done:
    ...     x = s.advance(velocity(s.model_input, s.t))
    >>> x.shape
    torch.Size([16, 3])
    """
    for name, instead in REFUSED.items():
        if name in kwargs:
            raise ValueError(f"{name}: not for a run that the host drives; {instead}")
    if guidance_mode == "ranks" or "guidance_group" in kwargs:
        raise ValueError("guidance_mode: 'ranks' makes its calls itself; expected 'batch' or 'calls' here")
    if isinstance(plan, Plan):
        plan.refuse_cheap_calls("which no host makes")
    check_keywords(_host, kwargs, OPTIONS)
    request = Request(
        guidance, uncond, guidance_mode, seeds, image, mask, clamp, threshold, threshold_limit, model_dtype,
        observation, correction, particles, None, shard, kwargs,
    )  # fmt: skip
    return Stepper(plan, noise, request)


def _host(x: Tensor, t: Tensor, **conditions: object) -> Tensor:
    """Stands for the model, which only the host knows."""
    raise AssertionError("the host calls the model")


class Stepper:
    """A run between two calls of the model; `fastdiff.stepper` makes one.

    Until it is `done`, call the model as model(s.model_input, s.t, **s.conditions) and give what it returns to
    `advance`. That is once for each row, whatever the guidance, except that
    - with guidance_mode="calls" a row asks once for each output, and x changes with the last answer;
    - rows in which no output has weight ask nothing, and are run together with the one before.

    plan: what is run. step: the `Step` of the latest row, None before the first. Tensors of a stepper are buffers that
    the run overwrites: clone what you keep, and write to none.
    """

    def __init__(self, plan: Plan, noise: Tensor, request: Request) -> None:
        self.plan = plan
        self.step: Step | None = None
        with torch.no_grad():
            self._run, self._calls = request.begin(_host, plan, noise, watched=True)
            self._asking = self._rows(noise, request)
            self._ask: Ask | None = next(self._asking, None)

    def _rows(self, noise: Tensor, request: Request) -> Asking:
        run, calls = self._run, self._calls
        ask = calls.asker(run)
        for i, t in enumerate(run.times()):
            before, outputs = run.x, (yield from ask(run.model_input, t))
            run.apply(i, *outputs)
            self.step = step_after(run, calls, i, before, noise, request)

    @property
    def model_input(self) -> Tensor:
        """[n, ...] the x that the model is called with next, n = B, or several times that under guidance.

        It requires a gradient where a correction differentiates the model; the output has to carry its graph then.
        """
        return self._next.x

    @property
    def t(self) -> Tensor:
        """[n] the model's time."""
        return self._next.t

    @property
    def conditions(self) -> dict[str, object]:
        """The model's keyword arguments."""
        return self._next.conditions

    @torch.no_grad()
    def advance(self, output: Tensor) -> Tensor:
        """Take what the model says at `model_input`, a tensor of its shape, run the row, and return x [B, ...].

        Raises TypeError or ValueError naming output, which can be given again, and RuntimeError after the last row.
        """
        x = self._next.x
        checks.require_float("output", output)
        checks.require_shape("output", output, tuple(x.shape))
        checks.require_device("output", output, x)
        self._ask = None  # of a run that an error ends
        with suppress(StopIteration):  # after the last row
            self._ask = self._asking.send(output)
        return self.x

    @property
    def _next(self) -> Ask:
        if self._ask is None:
            after = "after its last row" if self.done else f"after the error at row {self.i}"
            raise RuntimeError(f"stepper: the run asks nothing of the model {after}; fastdiff.stepper begins another")
        return self._ask

    @property
    def done(self) -> bool:
        """Whether all rows have been run."""
        return self.i == self.n

    @property
    def i(self) -> int:
        """The number of the row that is run next."""
        return self._run.i

    @property
    def n(self) -> int:
        """How many rows there are."""
        return self.plan.nfe

    def __len__(self) -> int:
        """How many rows are left."""
        return self.n - self.i

    @property
    def x(self) -> Tensor:
        """[B, ...] the state, float32 or float64; at the end the samples."""
        return self._run.x

    @property
    def x0(self) -> Tensor:
        """[B, ...] the data predicted in the latest row. Raises ValueError where that does not read the model."""
        return self._latest.x0

    @property
    def residual(self) -> Tensor:
        """[B] see `Step.residual`. Raises ValueError without an observation."""
        return self._latest.residual

    @property
    def particles(self) -> Particles:
        """The weights of x in its groups. Raises ValueError in a run without particles."""
        return self._latest.particles

    @property
    def _latest(self) -> Step:
        if self.step is None:
            raise RuntimeError("stepper: no row has been run")
        return self.step
