"""A diffusers scheduler that runs any plan, a fitted one for instance."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from diffusers import ConfigMixin, SchedulerMixin
from diffusers.configuration_utils import register_to_config
from diffusers.utils import BaseOutput
from torch import Tensor

from ..plan import Plan
from .fused import Fused
from .state import RunState


@dataclass
class PlanSchedulerOutput(BaseOutput):
    """prev_sample: [B, ...] the sample after the step. pred_original_sample: the converted output D."""

    prev_sample: Tensor
    pred_original_sample: Tensor


class PlanScheduler(Fused, SchedulerMixin, ConfigMixin):
    """`pipe.scheduler = PlanScheduler(plan)`; the pipeline's num_inference_steps is then `plan.nfe`.

    plan: a deterministic `fastdiff.Plan`, such as `fastdiff.fit` finds, or the dict of its JSON; it must be for the
    pipeline's schedule and prediction, and runs whole, from noise: no image to image. Saved with the pipeline.
    """

    order = 1
    _second = "d"

    @register_to_config
    def __init__(self, plan: Plan | dict, num_train_timesteps: int = 1000) -> None:
        self.plan = plan if isinstance(plan, Plan) else Plan.from_dict(plan)
        if self.plan.stochastic:
            raise ValueError("plan: expected a deterministic one, got one that draws noise")
        self.register_to_config(plan=self.plan.to_dict())
        self.init_noise_sigma = self.plan.init_scale
        self._fill(None)

    def set_timesteps(self, num_inference_steps: int | None = None, device: str | torch.device | None = None) -> None:
        """Begin a run. Raises ValueError where num_inference_steps is not the plan's number of model evaluations."""
        if num_inference_steps not in (None, self.plan.nfe):
            raise ValueError(f"num_inference_steps: the plan has {self.plan.nfe}, got {num_inference_steps}")
        self._threads.use(RunState())
        self._fill(device)

    def _fill(self, device: str | torch.device | None) -> None:
        """The plan's times, for the current run."""
        self.num_inference_steps = self.plan.nfe
        self.timesteps = torch.tensor([row.t for row in self.plan.rows], dtype=torch.float32, device=device)
        self.model_outputs = [None] * self.plan.depth
        self._prepare(self._threads.run)

    def scale_model_input(self, sample: Tensor, timestep: float | Tensor) -> Tensor:
        """[B, ...] what the model reads at this step."""
        run = self._threads.run
        place = run.place(timestep)
        if place is None:
            place = self.index_for_timestep(timestep) if run._step_index is None else run._step_index
        scale = self.plan.rows[place].c_in
        return sample if scale == 1 else sample * scale

    def step(
        self, model_output: Tensor, timestep: float | Tensor, sample: Tensor, return_dict: bool = True, **_: object
    ) -> PlanSchedulerOutput | tuple[Tensor, Tensor]:
        """(the next sample, the converted output), each [B, ...]."""
        new, d = self._advance(model_output, timestep, sample)
        return PlanSchedulerOutput(new, d) if return_dict else (new, d)

    def _rows(self, run: RunState, begin: int, key: object) -> tuple:
        if begin:
            raise ValueError(f"timestep: a plan runs from its first step on, not from step {begin}")
        return self.plan.rows, self.plan.end
