"""What all guiders share: which steps are guided, which run a step belongs to, and how outputs become one."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, ExitStack
from typing import Any, NamedTuple

from diffusers.guiders import BaseGuidance
from diffusers.guiders.guider_utils import GuiderOutput
from torch import Tensor, nn

from ..sampling.combine import Combiner
from ..sampling.rule import Guidance, Point
from .level import Level, Listener, level_of

_UNKNOWN = Level(math.nan, math.nan, "flow_prediction")


class Moment(NamedTuple):
    """A step of a run: its number, how many there are, and sigma / alpha, NaN where that is not known."""

    step: int
    steps: int
    ratio: float


def within(moment: Moment | None, start: float, stop: float) -> bool:
    """Whether start <= step / steps < stop, the fractions taken as written (0.29 of 100 is 29).

    A window that ends at 1 has no end: schedulers with two evaluations a step number them past `steps`. Without a
    moment: whether any step may lie inside.
    """
    if moment is None:
        return True
    first, last = (round(edge * moment.steps, 9) for edge in (start, stop))
    return first <= moment.step and (stop >= 1 or moment.step < last)


class Guider(BaseGuidance):
    """A guider of diffusers, whose `forward` is an object of `fastdiff.guidance` applied to the outputs.

    Between runs, that is before the first step and once a step's outputs are combined, `num_conditions` counts all that
    a run may need: pipelines ask it whether to encode a negative prompt.
    """

    guidance_interval: tuple[float, float] | None = None
    _reads_sample = False  # whether the method makes use of x, where a scheduler is followed
    _scheduler: Any = None
    _level = _UNKNOWN
    _moment: Moment | None = None  # the step that set_state began last
    _combiner: Combiner | None = None
    _shape: tuple[int, ...] | None = None  # of the run's outputs
    _pending = False  # whether set_state has begun a step whose outputs are not combined yet
    _answered = False  # whether forward has been called in this step
    _listener: Listener | None = None  # knows what the network was given
    _changes: ExitStack | None = None  # what prepare_models did to the network

    # What a subclass says.

    def _active(self, moment: Moment | None) -> list[str]:
        """The names of the predictions wanted at a moment, the conditional one first; without one, in the whole run."""
        raise NotImplementedError

    def _method(self, names: list[str]) -> Guidance:
        """How these predictions become one, where there are more than the conditional one."""
        raise NotImplementedError

    def _input_of(self, name: str) -> int:
        """Which of a pipeline's inputs (conditional, unconditional) a prediction is made from."""
        return 1 if name == "pred_uncond" else 0

    # Noise levels.

    def follow(self, scheduler: Any) -> Guider:
        """Reads each step's noise level from this scheduler; returns the guider.

        Needed by `guidance_interval`. Methods defined on x0 then act there; x is what the network is given.
        Raises ValueError for a scheduler with EDM's preconditioning, whose network's output is no prediction of x0.
        """
        if hasattr(scheduler, "precondition_inputs"):
            raise ValueError(
                f"follow: {type(scheduler).__name__} preconditions the network; expected another scheduler"
            )
        self._scheduler = scheduler
        return self

    # Steps and runs.

    def set_state(self, step: int, num_inference_steps: int, timestep: Any) -> None:
        """Begins a step. One that does not come next after the step before begins a run, as other shapes do."""
        self._abandon()
        due = None if self._step is None else self._step + self._answered
        if step != due or num_inference_steps != self._num_inference_steps:
            self._begin_run()
        super().set_state(step, num_inference_steps, timestep)
        self._level = _UNKNOWN if self._scheduler is None else level_of(self._scheduler, timestep)
        self._moment = Moment(step, num_inference_steps, self._level.ratio)
        self._pending, self._answered = True, False
        if self._scheduler is None and self.guidance_interval is not None:
            raise ValueError("guidance_interval: the guider has to know noise levels: call guider.follow(scheduler)")

    def _begin_run(self) -> None:
        """Forgets the run before."""
        self._combiner = None

    def _guided(self, moment: Moment | None, start: float, stop: float) -> bool:
        """Whether the guider is enabled and a moment lies in the window and in the interval."""
        if not self._enabled:
            return False
        if moment is not None and self.guidance_interval is not None:
            low, high = self.guidance_interval
            if not low < moment.ratio <= high:
                return False
        return within(moment, start, stop)

    # diffusers' protocol.

    def new(self, **options: object) -> Guider:
        """A guider of the same configuration, but for options, that follows the same scheduler."""
        guider = super().new(**options)
        guider._scheduler = self._scheduler
        return guider

    @property
    def num_conditions(self) -> int:
        """How many predictions this step needs; between steps, the most that one may need."""
        return len(self._active(self._moment if self._pending else None))

    @property
    def is_conditional(self) -> bool:
        """Whether the batch that prepare_models was last called for is of the conditional inputs."""
        return self._count_prepared > 0 and self._prepared() != "pred_uncond"

    def _prepared(self) -> str:
        """The prediction that prepare_models was last called for."""
        names = self._active(self._moment)
        return names[min(self._count_prepared, len(names)) - 1]

    def prepare_inputs(self, data: Any) -> list[Any]:
        """A batch of the network's inputs for each prediction."""
        return [self._prepare_batch(data, self._input_of(name), name) for name in self._active(self._moment)]

    def prepare_inputs_from_block_state(self, data: Any, input_fields: dict[str, Any]) -> list[Any]:
        """The same, from a block's state."""
        return [
            self._prepare_batch_from_block_state(input_fields, data, self._input_of(name), name)
            for name in self._active(self._moment)
        ]

    def prepare_models(self, denoiser: nn.Module) -> None:
        """Called before each evaluation of the network."""
        self._count_prepared += 1
        self._abandon()
        self._changes = ExitStack()
        for change in self._changes_for(denoiser, self._prepared()):
            self._changes.enter_context(change)

    def cleanup_models(self, denoiser: nn.Module) -> None:
        """Called after each evaluation of the network: undoes what prepare_models did."""
        changes, self._changes = self._changes, None
        if changes is not None:
            changes.close()

    def _abandon(self) -> None:
        """Undoes what is left on the network of an evaluation that failed."""
        changes, self._changes = self._changes, None
        if changes is not None:
            failure = RuntimeError("the evaluation failed")
            changes.__exit__(type(failure), failure, None)

    def _changes_for(self, denoiser: nn.Module, name: str) -> list[AbstractContextManager[Any]]:
        """What is done to the network while it makes a prediction."""
        if name != "pred_cond" or not self._acts_on_x0:
            return []
        self._listener = Listener()
        return [self._listener.on(denoiser)]

    def __call__(self, data: list[Any]) -> GuiderOutput:
        """The guided output from the batches that prepare_inputs gave, each with its `noise_pred`."""
        output = super().__call__(data)
        self._pending = False
        return output

    def forward(self, pred_cond: Tensor, pred_uncond: Tensor | None = None) -> GuiderOutput:
        """The guided output `pred`, [B, ...] in the dtype of pred_cond. No gradients.

        Raises ValueError where a prediction that this step needs is missing.
        """
        return self._output(pred_cond=pred_cond, pred_uncond=pred_uncond)

    def _output(self, **given: Tensor | None) -> GuiderOutput:
        """What `forward` returns, from the predictions by name."""
        predictions = {name: prediction for name, prediction in given.items() if prediction is not None}
        names = self._active(self._moment)
        missing = [name for name in names if name not in predictions]
        if missing:
            raise ValueError(f"{', '.join(missing)}: expected a tensor, got None")
        self._answered = True
        pred_cond, pred_uncond = predictions["pred_cond"], predictions.get("pred_uncond")
        if pred_cond.shape != self._shape:
            self._begin_run()
            self._shape = pred_cond.shape
        return GuiderOutput(pred=self._guide(names, predictions), pred_cond=pred_cond, pred_uncond=pred_uncond)

    def _guide(self, names: list[str], predictions: dict[str, Tensor]) -> Tensor:
        """The guided output from the predictions of these names, among which others may be."""
        pred_cond = predictions["pred_cond"]
        return pred_cond if names == ["pred_cond"] else self._combined(self._method(names), predictions)

    def _combined(self, method: Guidance, predictions: dict[str, Tensor]) -> Tensor:
        if self._combiner is None:
            self._combiner = Combiner(method)
        self._combiner.guidance = method  # settings may change during a run
        point, x = self._place(predictions["pred_cond"])
        order: Any = self._input_predictions
        return self._combiner(point, x, [predictions.get(name) for name in order])

    def _place(self, pred_cond: Tensor) -> tuple[Point, Tensor]:
        """Where the network was evaluated, and x there; something of its shape where the method makes no use of x."""
        if self._acts_on_x0:
            x, level = (self._listener or Listener()).like(pred_cond), self._level
        else:
            x, level = pred_cond, _UNKNOWN
        return Point(self._step or 0, self._num_inference_steps or 1, math.nan, *level), x

    @property
    def _acts_on_x0(self) -> bool:
        return self._reads_sample and self._scheduler is not None
