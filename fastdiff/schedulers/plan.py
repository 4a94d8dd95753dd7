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
from .advance import predicting_part
from .base import FusedScheduler
from .compile import compiled_scale
from .plan_config import check_config, compare_shift, demanded_shift, kind_of, training_times
from .plan_rows import reading_noise, rescaled, rows_from
from .recipe import Recipe
from .rows import Table, make_table
from .run_state import Generators, Key, RunState
from .runs import row_to_read
from .space import Space

MAX_UNEVENNESS = 2e-3  # how far from even a pipeline's own grid is: some round its times to whole numbers


@dataclass
class PlanSchedulerOutput(BaseOutput):
    """prev_sample: [B, ...] the sample after the step. pred_original_sample: [B, ...] x0 as the model predicts it."""

    prev_sample: Tensor
    pred_original_sample: Tensor


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
    from the second row on. What the model makes of c_in times pure noise is then told from what it makes of the noise,
    as if x0 did not depend on it.
    """

    order = 1
    recipe = Recipe(None, Space(), output_dtype="sample", extra="converted", begins_at_place=True)

    def __init__(
        self, plan: Plan | str | os.PathLike | Mapping[str, object], num_train_timesteps: int | None = None
    ) -> None:
        self._plan = _plan(plan)
        if self._plan.stochastic:
            raise ValueError("plan: expected a deterministic one, got one that draws noise")
        rows = self._plan.rows
        self._flows = kind_of(self._plan) == "flow"
        self._alpha_sigma = np.array([*((row.alpha, row.sigma) for row in rows), self._plan.end])  # [rows + 1, 2]
        self._reads = tuple(1.0 if i and self._flows else row.c_in for i, row in enumerate(rows))
        forms = (None if row.form == "data" else row for row in rows)
        self._x0 = [row and convert(self._plan.prediction, "data", row.alpha, row.sigma) for row in forms]
        self._made: dict[tuple[int, bool], Table] = {}
        self.init_noise_sigma = self._plan.init_scale
        total = num_train_timesteps or training_times(self._plan)
        self.register_to_config(
            plan=self._plan.to_dict(), num_train_timesteps=total, prediction_type=self._plan.prediction
        )
        self._fill(None)

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

    def set_begin_index(self, begin_index: int = 0) -> None:
        """Say at which row the run begins."""
        self._begin_index = begin_index

    def __len__(self) -> int:
        return self.config.num_train_timesteps

    # The times.

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
        for name, values in (("timesteps", timesteps), ("sigmas", sigmas)):
            if values is not None:
                num_inference_steps = self._count_of(name, values)
        if num_inference_steps not in (None, self.plan.nfe):
            raise ValueError(
                f"num_inference_steps: the plan has {self.plan.nfe}, got {num_inference_steps}; ask for"
                f" {self.plan.nfe}, or make a plan of {num_inference_steps}"
            )
        if mu is not None and not self._flows:
            raise ValueError(f"mu: expected none, since the plan is for no flow model; got {mu}")
        demanded = demanded_shift(self.config, mu)
        if demanded is not None:
            compare_shift(self.plan, demanded)
        self._threads.use(RunState())
        self._fill(device)

    def _count_of(self, name: str, values: Sequence[float]) -> int:
        """How many steps the values ask for, where they ask for no other times than the plan's."""
        array, own = np.asarray(values, dtype=np.float64), self._own_values(name).double().numpy()
        if array.shape in ((self.plan.nfe,), own.shape) and np.allclose(array, own[: len(array)], rtol=1e-3):
            return self.plan.nfe
        top = self.config.num_train_timesteps if name == "timesteps" else 1
        even = self._flows and array.ndim == 1 and array.size > 0
        if not even or np.abs(array - np.linspace(top, array[-1], len(array))).max() > MAX_UNEVENNESS * top:
            raise ValueError(
                f"{name}: a plan has its own, got {values!r}; leave {name} out, or make the plan on them with"
                f" fastdiff.plan(..., {'grid' if name == 'timesteps' else name}=)"
            )
        return len(array)

    def _fill(self, device: str | torch.device | None) -> None:
        """The plan's times and sigmas, for the current run."""
        self.num_inference_steps = self.plan.nfe
        self.timesteps, self.sigmas = self._own_values("timesteps").to(device), self._own_values("sigmas")
        self.model_outputs = [None] * self.plan.depth
        self._threads.run.scaled = False  # whether scale_model_input was called
        self._prepare(self._threads.run)

    def _own_values(self, name: str) -> Tensor:
        """The plan's timesteps [rows] in the pipeline's unit, or sigmas [rows + 1]: sigma / alpha, of a flow sigma."""
        if name == "timesteps":
            unit = self.config.num_train_timesteps if self._flows else 1
            return torch.tensor([unit * row.t for row in self.plan.rows], dtype=torch.float32)
        alpha, sigma = self._alpha_sigma.T
        with np.errstate(divide="ignore"):
            return torch.tensor(sigma if self._flows else sigma / alpha, dtype=torch.float32)

    def _prepare(self, run: RunState) -> None:
        super()._prepare(run)
        for name, held in (("timesteps", run.times), ("sigmas", run.host_sigmas)):
            if not np.array_equal(held, self._own_values(name).double().numpy()):
                raise ValueError(f"{name}: a plan's cannot be changed; make the plan on others with fastdiff.plan")

    # Noise.

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
        weights = self._alpha_sigma[places] * np.array([self._held(run, place) for place in places])[:, None]
        shape = (-1, *[1] * (original_samples.ndim - 1))
        alpha, sigma = (torch.tensor(w, dtype=dtype, device=noise.device).view(shape) for w in weights.T)
        return (alpha * original_samples.to(dtype) + sigma * noise.to(dtype)).to(original_samples.dtype)

    def scale_noise(self, sample: Tensor, timestep: Tensor, noise: Tensor) -> Tensor:
        """`add_noise`, by the name that flow pipelines have for it."""
        return self.add_noise(sample, noise, timestep)

    # The step.

    def scale_model_input(self, sample: Tensor, timestep: float | Tensor) -> Tensor:
        """[B, ...] what the model reads at this step."""
        if all(factor == 1 for factor in self._reads):
            return sample
        if is_compiling():
            return compiled_scale(self, sample, timestep)
        run, place = row_to_read(self, timestep, sample)
        run.scaled = True
        return sample * self._reads[place]

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
        place = run._step_index - 1
        if self._x0[place] is None:
            return new, d
        q_x, q_m = self._x0[place]
        m = m if m.shape == x.shape else predicting_part(self, m, x)
        return new, q_x / self._held(run, place) * x.to(d.dtype) + q_m * m.to(d.dtype)

    def _table(self, run: RunState, key: Key) -> Table:
        table = self._made.get((run.begin, run.scaled))
        if table is None:
            held = [self._held(run, place) for place in range(run.begin, self.plan.nfe + 1)]
            rows = rescaled(rows_from(self.plan, run.begin), held)
            if rows[0].c_in != 1 and not run.scaled:
                rows[0] = reading_noise(rows[0], self.plan.prediction)
            table = self._made[run.begin, run.scaled] = make_table(rows)
        run.table, run.key = table, key
        return table


def _plan(plan: Plan | str | os.PathLike | Mapping[str, object]) -> Plan:
    if isinstance(plan, Plan):
        return plan
    return Plan.load(plan) if isinstance(plan, (str, os.PathLike)) else Plan.from_dict(plan)
