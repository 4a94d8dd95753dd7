"""Any plan as a MONAI scheduler, and PNDM as published."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...plans.build import plan as make_plan
from ...plans.plan import Plan
from . import theirs
from .driven import Driven
from .training import Training, training_of


class PlanScheduler(theirs.Scheduler):
    """Any of fastdiff's solvers, or a plan, for a network that was trained with one of MONAI's schedulers.

        inferer.scheduler = PlanScheduler(inferer.scheduler)
        inferer.scheduler.set_timesteps(8)

    scheduler: MONAI's, of which noise schedule, prediction, the bounds of x0 and a flow's shift are taken. Training
        and `get_likelihood` stay its.
    solver: a name, a `fastdiff.Plan`, such as `fastdiff.fit` finds, or None for `fastdiff.plan`'s measured default.
    options: of `fastdiff.plan`: grid, start, order, guided=True where the inferer's cfg is well above 1, and so on.

    The times may be fractions: MONAI's networks embed them as they are. Raises TypeError or ValueError naming the
    argument.
    """

    def __init__(self, scheduler: theirs.Scheduler, solver: str | Plan | None = None, **options: Any) -> None:
        training_of(scheduler, 1)
        torch.nn.Module.__init__(self)
        if isinstance(solver, Plan) and options:
            raise ValueError(f"{next(iter(options))}: a plan has its own; give a solver's name")
        self._trained = (scheduler,)  # not as a part: MONAI's RFlowScheduler is a module that was never set up
        self.solver, self.options = solver, options
        for name in ("betas", "alphas", "alphas_cumprod", "one", "prediction_type", "num_train_timesteps"):
            if hasattr(scheduler, name):
                setattr(self, name, getattr(scheduler, name))
        self.num_inference_steps: int | None = None
        self._driven: Driven | None = None
        if isinstance(solver, Plan):
            self.set_timesteps()

    @property
    def trained(self) -> theirs.Scheduler:
        """The scheduler that it was made from."""
        return self._trained[0]

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: str | torch.device | None = None,
        input_img_size_numel: int | None = None,
    ) -> None:
        """Make the plan, and begin anew.

        num_inference_steps: the solver's steps; without a solver, evaluations of the network; None for a plan, which
        has its own. device: of `timesteps`. input_img_size_numel: as MONAI's RFlowScheduler takes it.
        """
        training = training_of(self.trained, input_img_size_numel)
        plan = self._plan(training, num_inference_steps)
        self._driven, self.num_inference_steps = Driven(plan, training), plan.nfe
        self.timesteps = torch.tensor(self._driven.times, device=device)

    def _plan(self, training: Training, steps: int | None) -> Plan:
        if isinstance(self.solver, Plan):
            if steps not in (None, self.solver.nfe):
                raise ValueError(f"num_inference_steps: expected {self.solver.nfe}, the plan's, got {steps}")
            if self.solver.prediction != training.prediction:
                expected = f"expected one of {training.prediction}, as the network predicts"
                raise ValueError(f"solver: {expected}, got a plan of {self.solver.prediction}")
            self.solver.check_schedule(training.schedule)
            self.solver.refuse_reuse("and an inferer makes it at every step")
            return self.solver
        return make_plan(self.solver, training.schedule, steps, prediction=training.prediction, **self.options)

    def step(
        self, model_output: Tensor, timestep: float, sample: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """(the next sample, x0), [B, ...] each, in sample's dtype.

        generator: of the seeds of plans that draw noise. Raises ValueError for another time than the run's next: a run
        begins at `timesteps[0]`.
        """
        if self._driven is None:
            raise ValueError("timestep: expected set_timesteps to be called before step")
        return self._driven.step(model_output, float(timestep), sample, generator)

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """alpha x0 + sigma eps [B, ...] at `timesteps` [B]; whole ones are MONAI's own, as in training."""
        if not timesteps.is_floating_point() or isinstance(self.trained, theirs.RFlowScheduler):
            return self.trained.add_noise(original_samples, noise, timesteps)
        schedule, shape = training_of(self.trained).schedule, (-1, *[1] * (noise.ndim - 1))
        place = schedule.at(timesteps.double().cpu().numpy())
        alpha, sigma = (torch.from_numpy(v).to(noise).view(shape) for v in (place.alpha, place.sigma))
        return alpha * original_samples + sigma * noise

    def get_velocity(self, sample: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """MONAI's own."""
        return self.trained.get_velocity(sample, noise, timesteps)

    def sample_timesteps(self, x_start: Tensor) -> Tensor:
        """The training times of MONAI's RFlowScheduler."""
        return self.trained.sample_timesteps(x_start)


class PNDMScheduler(theirs.PNDMScheduler):
    """PNDM (Liu et al. 2022, arXiv 2202.09778) as published, with MONAI's arguments.

    Each step ends where the next begins, the last one on clean data. MONAI's steps end elsewhere: with the Runge-Kutta
    start they are too short by half, without it the second evaluation leaves all later ones a step off their times.
    num_inference_steps counts steps; the start takes 9 evaluations more, without Runge-Kutta one.
    """

    def set_timesteps(self, num_inference_steps: int, device: str | torch.device | None = None) -> None:
        """Make the plan, and begin anew. Raises ValueError for more steps than were trained."""
        super().set_timesteps(num_inference_steps, device)
        training = training_of(self)
        steps = [*self._timesteps[::-1].astype(float), training.schedule.t_clean]
        points = training.schedule.at(steps)
        plan = make_plan(
            "pndm", training.schedule, sigmas=points.sigma / points.alpha, prediction=training.prediction,
            runge_kutta=not self.skip_prk_steps,
        )  # fmt: skip
        self._driven, self.num_inference_steps = Driven(plan, training), plan.nfe
        self.timesteps = torch.tensor(self._driven.times, device=device)

    def step(self, model_output: Tensor, timestep: float, sample: Tensor) -> tuple[Tensor, Tensor]:
        """(the next sample, x0), [B, ...] each. Raises ValueError for another time than the run's next."""
        return self._driven.step(model_output, float(timestep), sample)
