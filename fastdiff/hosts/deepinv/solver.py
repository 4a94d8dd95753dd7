"""`SDESolver`: what stands in the place of deepinv's DDIMSolver, DDPMSolver, EulerSolver and HeunSolver."""

from __future__ import annotations

import warnings
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from ...plans.build import plan as make_plan
from ...plans.plan import Plan
from ...sampling.sample import iter_sample
from ..placed import Levels, placed

if TYPE_CHECKING:
    AncestralSolver = nn.Module
    SDEOutput = SimpleNamespace
else:
    try:
        from deepinv.sampling import AncestralSolver, SDEOutput
    except ImportError:
        AncestralSolver, SDEOutput = nn.Module, SimpleNamespace


class SDESolver(AncestralSolver):
    """A solver of deepinv's diffusion SDEs, for any plan: `solver=` of PosteriorDiffusion and of the SDEs themselves.

        solver = SDESolver(t_start=1.0, t_end=0.001, num_steps=11)  # was: deepinv.sampling.DDIMSolver
        x = PosteriorDiffusion(DPSDataFidelity(denoiser), denoiser, sde, solver)(y, physics)

    timesteps, or t_start, t_end and num_steps: deepinv's, falling times; n times are n - 1 evaluations.
    rng: torch's Generator, for the noise of stochastic plans.
    solver: None for the default, found by measurement: of the times it takes the first one and their number, the others
        are its own, and it ends on clean data. Where there are measurements (`physics`) and fewer than ten evaluations,
        it is of second order. Or a name of `fastdiff.solvers()`, on the times given. Or a `fastdiff.Plan` on whatever
        schedule, which is placed on the SDE's by its noise levels.
    options: of `fastdiff.plan`, with a name as solver: `order`, `eta` ...

    The `alpha` of the SDE is ignored, as deepinv's DDIMSolver and DDPMSolver ignore it: ODE solvers are none but for
    plans with noise. SDEs need `sigma_t`, `scale_t` and `score`. Raises deepinv's ValueErrors, and TypeError or
    ValueError naming the argument.
    """

    def __init__(
        self,
        timesteps: Tensor | np.ndarray | None = None,
        t_start: float | None = None,
        t_end: float | None = None,
        num_steps: int | None = None,
        rng: torch.Generator | None = None,
        *,
        solver: str | Plan | None = None,
        **options: Any,
    ) -> None:
        nn.Module.__init__(self)
        if timesteps is None:
            if t_start is None or t_end is None or num_steps is None:
                raise ValueError("If timesteps is not provided, t_start, t_end, and num_steps must be specified.")
            timesteps = torch.linspace(t_start, t_end, num_steps)
        if options and not isinstance(solver, str):
            raise ValueError(f"{next(iter(options))}: is an option of a named solver, got solver={solver!r}")
        self.timesteps = _tensor(timesteps)
        self.solver, self.options, self.rng = solver, options, rng
        if rng is not None:
            self.initial_random_state = rng.get_state()

    def rng_manual_seed(self, seed: int | None = None) -> None:
        """Seeds `rng`, where there is one."""
        if seed is None:
            return
        if self.rng is None:
            warnings.warn("seed: there is no rng to be seeded, so it is ignored", stacklevel=2)
        else:
            self.rng = self.rng.manual_seed(seed)

    def plan(self, levels: Levels, times: np.ndarray, measured: bool) -> Plan:
        """What a run runs, in the plan's own scale. measured: whether the score knows measurements."""
        if isinstance(self.solver, Plan):
            return self.solver
        schedule, n = levels.as_edm(), len(times) - 1
        if self.solver is not None:
            points = levels.at(times)
            return make_plan(self.solver, schedule, sigmas=points.sigma / points.alpha, **self.options)
        if measured and 7 < n < 10:  # of so many the default is of third order, with guidance as without
            return make_plan("adams_moulton", schedule, n, order=2, grid="power")
        return make_plan(None, schedule, n, guided=measured and n < 10)

    @torch.no_grad()
    def sample(
        self,
        sde: Any,
        x_init: Tensor,
        seed: int | None = None,
        *args: Any,
        timesteps: Tensor | np.ndarray | None = None,
        get_trajectory: bool = False,
        verbose: bool = False,
        **kwargs: Any,
    ) -> Any:
        """deepinv's SDEOutput: sample [B, ...], trajectory [K, B, ...] or the sample, timesteps and nfe.

        x_init: [B, ...] at the first time. args, kwargs: of `sde.score`, such as y and physics.
        """
        self.rng_manual_seed(seed)
        times = _tensor(self.timesteps if timesteps is None else timesteps).double().cpu().numpy()
        x, states, plan = self._run(sde, x_init, times, args, kwargs, get_trajectory)
        at = torch.tensor([*(row.t for row in plan.rows), times[-1]], device=x.device)
        trajectory = torch.stack(states) if get_trajectory else x
        return SDEOutput(sample=x, trajectory=trajectory, timesteps=at, nfe=plan.nfe)

    def step(self, sde: Any, t0: float, t1: float, x0: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, int]:
        """(x at t1, evaluations) given x at t0: a step that knows of no others, DDIM's where no solver is named."""
        alone = SDESolver(torch.tensor([float(t0), float(t1)]), rng=self.rng, solver="ddim")
        if isinstance(self.solver, str):
            alone.solver, alone.options = self.solver, self.options
        x, _, plan = alone._run(sde, x0, np.array([float(t0), float(t1)]), args, kwargs, False)
        return x, plan.nfe

    def _run(
        self, sde: Any, x: Tensor, times: np.ndarray, args: tuple, kwargs: dict[str, Any], keep: bool
    ) -> tuple[Tensor, list[Tensor], Plan]:
        def scales(t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            at = torch.from_numpy(t)
            scale, sigma = (v.detach().double().cpu() for v in (sde.scale_t(at), sde.sigma_t(at)))
            return scale.numpy(), (scale * sigma).numpy()

        def model(x: Tensor, t: Tensor) -> Tensor:
            scale, sigma = sde.scale_t(t[0]), sde.sigma_t(t[0])
            return ((x + (scale * sigma) ** 2 * sde.score(x, t[0], *args, **kwargs)) / scale).to(x)

        levels = Levels(scales, times[0], times[-1])
        plan, enter, leave = placed(self.plan(levels, times, kwargs.get("physics") is not None), levels)
        seeds = (
            None if self.rng is None else torch.randint(2**62, (len(x),), generator=self.rng, device=self.rng.device)
        )
        scale = [row.c_in for row in plan.rows[1:]] + [leave]
        states, last = [x.clone()], x
        for step in iter_sample(model, plan, x * (enter / plan.init_scale), seeds=seeds):
            last = step.x
            if keep and step.accepted:
                states.append(scale[step.i] * last)
        return leave * last, states, plan


def _tensor(times: Tensor | np.ndarray) -> Tensor:
    return torch.from_numpy(times.copy()) if isinstance(times, np.ndarray) else times
