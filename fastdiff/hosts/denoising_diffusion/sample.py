"""`sample` and `interpolate`, with the arguments of the library's methods of these names."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...plans.build import plan as make_plan
from ...plans.plan import Plan
from ...sampling.sample import sample as run
from .model import Calls, Diffusion, own_times, read


@torch.no_grad()
def sample(
    diffusion: Any,
    batch_size: int = 16,
    return_all_timesteps: bool = False,
    return_noise: bool = False,
    model_forward_kwargs: dict[str, Any] | None = None,
    *,
    evaluations: int = 10,
    solver: str | Plan | None = None,
    clip: bool = True,
    noise: Tensor | None = None,
    seeds: Any = None,
    progress: bool = False,
    **options: Any,
) -> Tensor | tuple[Tensor, Tensor]:
    """What `diffusion.sample(batch_size)` draws, [B, C, H, W] or [B, C, N], in the range that the library gives back.

        diffusion.sample = functools.partial(sample, diffusion, evaluations=10)  # for its Trainer; `del` undoes it

    diffusion: a GaussianDiffusion of any objective and schedule, GaussianDiffusion1D or ElucidatedDiffusion. One that
        conditions on its own x0 gets that of the evaluation before, as in the library.
    return_all_timesteps: [B, K, ...] the start and all states, instead. return_noise: the noise too. Both, and
        model_forward_kwargs, are the library's.
    evaluations: of the network. solver: None for the default, found by measurement; a name of `fastdiff.solvers()`, at
        the library's own times ("ddim" is its `ddim_sample`, "heun" on EDM); or a `fastdiff.Plan` on its schedule.
    clip: of x0 to [-1, 1] at every step, and of EDM's result.
    noise: [B, ...] unit Gaussian; from torch's generator, as in the library, if None. seeds: for plans that draw noise.
    options: of `fastdiff.plan`, with a name as solver.

    The network is told fractions of its whole times, but by named solvers. Raises TypeError or ValueError naming the
    argument.
    """
    found = read(diffusion)
    plan = _plan(found, evaluations, solver, options)
    noise = torch.randn((batch_size, *found.shape), device=found.device) if noise is None else noise
    given: dict[str, Any] = {"seeds": seeds, "progress": progress}
    x = _draw(diffusion, found, plan, noise, clip, model_forward_kwargs or {}, return_all_timesteps, given)
    x = (x + 1) * 0.5 if found.elucidated else diffusion.unnormalize(x)
    return (x, noise) if return_noise else x


@torch.no_grad()
def interpolate(
    diffusion: Any,
    x1: Tensor,
    x2: Tensor,
    t: int | None = None,
    lam: float = 0.5,
    *,
    evaluations: int = 10,
    clip: bool = True,
) -> Tensor:
    """[B, ...] between images of [-1, 1]: (1 - lam) x1 + lam x2, noised to the index t, and denoised again.

    t: the last index if None. evaluations: where the library makes t of them. Raises TypeError or ValueError naming the
    argument.
    """
    if x1.shape != x2.shape:
        raise ValueError(f"x2: expected the shape of x1, {tuple(x1.shape)}, got {tuple(x2.shape)}")
    if not hasattr(diffusion, "q_sample"):
        raise TypeError(f"diffusion: expected a GaussianDiffusion, got {type(diffusion).__name__}")
    last = diffusion.num_timesteps - 1 if t is None else t
    if isinstance(last, bool) or not isinstance(last, int) or not 0 < last < diffusion.num_timesteps:
        raise ValueError(f"t: expected an index from 1 to {diffusion.num_timesteps - 1}, got {t!r}")
    at = torch.full((len(x1),), last, device=x1.device)
    mixed = torch.lerp(diffusion.q_sample(x1, t=at), diffusion.q_sample(x2, t=at), lam)
    found = read(diffusion, last)
    return _draw(diffusion, found, _plan(found, evaluations, None, {}), mixed, clip, {}, False, {})


def _plan(found: Diffusion, evaluations: int, solver: str | Plan | None, options: dict[str, Any]) -> Plan:
    if isinstance(solver, Plan):
        return solver
    if solver is None:
        for name in options:
            raise ValueError(f"{name}: is an option of a named solver, got solver=None")
        return found.default(evaluations)
    if "grid" not in options and "sigmas" not in options:
        count = found.schedule.num_train_timesteps
        grid = "karras" if count is None else own_times(count, evaluations)
        options = {"grid": grid, **options}
    steps = evaluations if isinstance(options.get("grid"), str) else None
    return make_plan(solver, found.schedule, steps, prediction=found.prediction, **options)


def _draw(
    diffusion: Any,
    found: Diffusion,
    plan: Plan,
    noise: Tensor,
    clip: bool,
    kwargs: dict[str, Any],
    every: bool,
    given: dict[str, Any],
) -> Tensor:
    """[B, ...] in the network's range; [B, K, ...] with every state."""
    calls = Calls(diffusion, found, plan, clip, kwargs)
    limit = 1.0 if clip and not found.elucidated else None
    out = run(calls, plan, noise * (found.enter(plan) / plan.init_scale), clamp=limit, return_trajectory=every, **given)
    if every:
        after = [*(row.c_in for row in plan.rows[1:]), 1.0]
        scales = [plan.rows[0].c_in, *(c for c, row in zip(after, plan.rows, strict=True) if row.accepts)]
        return torch.stack([c * x for c, x in zip(scales, out[1], strict=True)], dim=1)
    assert isinstance(out, Tensor)
    return out.clamp(-1, 1) if clip and found.elucidated else out
