"""A diffusers scheduler that runs any plan, a fitted one for instance."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from diffusers import ConfigMixin, SchedulerMixin
from diffusers.utils import BaseOutput
from torch import Tensor
from torch.compiler import is_compiling

from ..ops.reference import compute_dtype
from ..plans.plan import Plan
from ..plans.prediction import convert
from ..plans.row import Row
from ..plans.schedule import Points
from .advance import predicting_part
from .base import FusedScheduler
from .plan_config import check_config, check_wanted, kind_of, training_times
from .plan_rows import reading_noise, rescaled, rows_from
from .recipe import Recipe
from .run_state import Generators, Key, RunState, Scheduler
from .space import Space, Wanted
from .step import scale_model_input

UNFOLLOWED = (
    "which only a network makes that follows the pipeline: fastdiff.cached(pipe.unet).follow(pipe), of others"
    " pipe.transformer"
)


@dataclass
class PlanSchedulerOutput(BaseOutput):
    """prev_sample: [B, ...] the sample after the step. pred_original_sample: [B, ...] x0 as the model predicts it."""

    prev_sample: Tensor
    pred_original_sample: Tensor


class PlanTimes(Space):
    """A plan's own."""

    def points(self, scheduler: Scheduler, run: RunState, begin: int) -> Points:
        return scheduler._points.at(slice(begin, None))

    def c_in(self, scheduler: Scheduler, run: RunState) -> list[float]:
        """A flow pipeline's state is c_in x already, but for the first row's."""
        return [1.0 if i and scheduler._flows else row.c_in for i, row in enumerate(scheduler.plan.rows)]


def plan_rows(scheduler: Scheduler, run: RunState, points: Points, key: Key) -> list[Row]:
    """For the state as the pipeline holds it."""
    held = [scheduler._held(run, place) for place in range(run.begin, scheduler.plan.nfe + 1)]
    rows = rescaled(rows_from(scheduler.plan, run.begin), held)
    if rows[0].c_in != 1 and not run.scaled:
        rows[0] = reading_noise(rows[0], scheduler.plan.prediction)
    return rows


class PlanScheduler(FusedScheduler, SchedulerMixin, ConfigMixin):
    """`pipe.scheduler = PlanScheduler.from_config(pipe.scheduler.config, plan=plan)`.

    The pipeline's num_inference_steps is then `plan.nfe`, and it draws what `fastdiff.sample` draws from its noise.
    `from_config` compares the plan's schedule and prediction with the pipeline's. It keeps the pipeline's configuration
    beside the plan: pipelines read it, and a scheduler made from it again is the pipeline's own.
    `PlanScheduler(plan)` compares nothing.

    plan: a deterministic `fastdiff.Plan`, such as `fastdiff.fit` finds, the path of its file, or the dict of its JSON.
    num_train_timesteps: the model of a flow pipeline is told num_train_timesteps times t; 1000 where not given.

    Image to image and inpainting: a run may begin at any of `timesteps`; alpha and sigma there are the row's. Its first
    step is DDIM's, and outputs from before the start count as the oldest there is (`plan_rows.rows_from`). A fit is to
    whole runs: of one that begins in its second half, little of the gain is left.
    Where a row of the plan has the model read c_in x, scale_model_input gives it, as Stable Diffusion's pipelines ask.
    Flow pipelines never do: there, and wherever a run's first step comes without it, the pipeline holds c_in x itself
    from the second row on, and the first is `plan_rows.reading_noise`.
    """

    order = 1
    recipe = Recipe(plan_rows, PlanTimes(), output_dtype="sample", extra="converted", begins_at_place=True)

    def __init__(
        self, plan: Plan | str | os.PathLike | Mapping[str, object], num_train_timesteps: int | None = None
    ) -> None:
        self._plan = _plan(plan)
        self._plan.refuse_reuse("and a pipeline makes it at every step")
        if self._plan.stochastic:
            raise ValueError("plan: expected a deterministic one, got one that draws noise")
        rows, self._flows = self._plan.rows, kind_of(self._plan) == "flow"
        alpha, sigma = np.array([*((row.alpha, row.sigma) for row in rows), self._plan.end]).T
        self._points = Points(sigma, alpha, sigma)
        total = num_train_timesteps or training_times(self._plan)
        with np.errstate(divide="ignore"):
            sigmas = sigma if self._flows else sigma / alpha
        times = [(total if self._flows else 1) * row.t for row in rows]
        self._own = {"timesteps": np.array(times, np.float32), "sigmas": sigmas.astype(np.float32)}
        forms = (None if row.form == "data" else row for row in rows)
        self._x0 = [row and convert(self._plan.prediction, "data", row.alpha, row.sigma) for row in forms]
        self._scales = any(factor != 1 for factor in self.recipe.space.c_in(self, self._threads.run))
        self.init_noise_sigma = self._plan.init_scale
        self.register_to_config(
            plan=self._plan.to_dict(), num_train_timesteps=total, prediction_type=self._plan.prediction
        )
        self.set_timesteps()

    @classmethod
    def from_config(
        cls,
        config: Mapping[str, object],
        return_unused_kwargs: bool = False,
        *,
        plan: Plan | str | os.PathLike | Mapping[str, object] | None = None,
        **kwargs: object,
    ) -> PlanScheduler | tuple[PlanScheduler, dict]:
        """The scheduler of a plan for the pipeline whose scheduler has this configuration.

        config: `pipe.scheduler.config`. plan: where not given, the configuration's own. kwargs: instead of what the
        configuration has. Raises ValueError where the plan is for another schedule or prediction; warns where its times
        were laid with another shift, and where the pipeline's scheduler bounds x0.
        """
        if not isinstance(config, Mapping):
            raise TypeError(f"config: expected a configuration, such as pipe.scheduler.config, got {config!r}")
        given = {name: value for name, value in {**config, **kwargs}.items() if not name.startswith("_")}
        if plan is None and "plan" not in given:
            raise ValueError("plan: expected one beside the configuration: from_config(config, plan=plan)")
        made = cls(given["plan"] if plan is None else plan, given.get("num_train_timesteps"))
        check_config(made.plan, given)
        made.register_to_config(**{**given, "plan": made.config["plan"]})
        return (made, {}) if return_unused_kwargs else made

    @property
    def plan(self) -> Plan:
        """The plan that runs."""
        return self._plan

    @property
    def step_index(self) -> int | None:
        """How many rows of the plan are done; None before the first step."""
        return self._step_index

    @property
    def begin_index(self) -> int | None:
        """The row that the run begins at, where a pipeline has said so."""
        return self._begin_index

    def take_call(self) -> None:
        """Say that the network's call for the next row is made as the row asks: else `step` refuses cheap rows."""
        self._threads.run.called = True

    def set_begin_index(self, begin_index: int = 0) -> None:
        """Say at which row the run begins."""
        self._begin_index = begin_index

    def __len__(self) -> int:
        return self.config.num_train_timesteps

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: str | torch.device | None = None,
        *,
        timesteps: Sequence[float] | None = None,
        sigmas: Sequence[float] | None = None,
        mu: float | None = None,
    ) -> None:
        """Begin a run. The times are the plan's own.

        num_inference_steps: None, or the plan's number of model evaluations. timesteps, sigmas: as many; the plan's
        own, or an even grid from the top, as pipelines hand on where their caller has asked for nothing. mu: warns
        where exp(mu) is not the shift that the plan's times were laid with, if the pipeline's configuration is known.
        Raises ValueError for other numbers.
        """
        check_wanted(self, num_inference_steps, Wanted(timesteps, sigmas, mu))
        super().set_timesteps(device=device)

    def _resolve_times(self, run: RunState, steps: object, device: str | torch.device | None, *rest: object) -> None:
        run.num_inference_steps = self.plan.nfe
        run.timesteps = torch.tensor(self._own["timesteps"], device=device)
        run.sigmas = torch.tensor(self._own["sigmas"])

    def _prepare(self, run: RunState) -> None:
        super()._prepare(run)
        for name, held in (("timesteps", run.times), ("sigmas", run.host_sigmas)):
            if not np.array_equal(held, self._own[name]):
                raise ValueError(f"{name}: a plan's cannot be changed; make the plan on others with fastdiff.plan")

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """alpha x0 + sigma eps, [B, ...], as the run holds it at the given times.

        timesteps: [B] or one of the run's `timesteps`; after set_begin_index it is the run's next time instead, as in
        diffusers. Raises IndexError for other times.
        """
        run = self._threads.run
        if run._begin_index is None:
            places = [self.index_for_timestep(float(t)) for t in torch.as_tensor(timesteps).reshape(-1)]
        else:
            places = [run._begin_index if run._step_index is None else run._step_index]
        dtype = compute_dtype(original_samples.dtype)
        held, shape = [self._held(run, place) for place in places], (-1, *[1] * (original_samples.ndim - 1))
        weights = (self._points.alpha[places] * held, self._points.sigma[places] * held)
        alpha, sigma = (torch.tensor(w, dtype=dtype, device=noise.device).view(shape) for w in weights)
        return (alpha * original_samples.to(dtype) + sigma * noise.to(dtype)).to(original_samples.dtype)

    def scale_noise(self, sample: Tensor, timestep: Tensor, noise: Tensor) -> Tensor:
        """`add_noise`, by the name that flow pipelines have for it."""
        return self.add_noise(sample, noise, timestep)

    def scale_model_input(self, sample: Tensor, timestep: float | Tensor) -> Tensor:
        """[B, ...] what the model reads at this step."""
        return scale_model_input(self, sample, timestep) if self._scales else sample

    def _held(self, run: RunState, place: int) -> float:
        """What the pipeline's state is over the plan's x at a row: c_in where nothing else scales the model's input."""
        begun = run._step_index is not None and place > run.begin
        holds = place > 0 if self._flows else begun and not run.scaled
        return self.plan.rows[place].c_in if holds and place < self.plan.nfe else 1.0

    def step(
        self,
        model_output: Tensor,
        timestep: float | Tensor,
        sample: Tensor,
        generator: Generators = None,
        return_dict: bool = True,
    ) -> PlanSchedulerOutput | tuple[Tensor, Tensor]:
        """(the next sample, x0), each [B, ...] in sample's dtype. generator: a plan draws nothing from it."""
        new, x0 = self._advance(model_output, timestep, sample)
        x0 = x0.to(new.dtype)
        return PlanSchedulerOutput(new, x0) if return_dict else (new, x0)

    def _advance(self, m: Tensor, timestep: object, x: Tensor, **options: object) -> tuple[Tensor, Tensor]:
        new, d = super()._advance(m, timestep, x, **options)
        if is_compiling():  # then it is x0 already
            return new, d
        run = self._threads.run
        if self._plan.partial and not run.called:
            self._plan.refuse_cheap_calls(UNFOLLOWED)
        run.called = False
        place = run._step_index - 1
        if self._x0[place] is None:
            return new, d
        q_x, q_m = self._x0[place]
        m = m if m.shape == x.shape else predicting_part(self, m, x)
        return new, q_x / self._held(run, place) * x.to(d.dtype) + q_m * m.to(d.dtype)


def _plan(plan: Plan | str | os.PathLike | Mapping[str, object]) -> Plan:
    if isinstance(plan, Plan):
        return plan
    return Plan.load(plan) if isinstance(plan, (str, os.PathLike)) else Plan.from_dict(plan)
