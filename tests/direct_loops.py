"""The loops of pipelines whose schedulers' steps are told more than a time: one generator of (x, x0 or mean) each.

What a run needs of its scheduler is taken before the first step, so that runs can share one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from scheduler_loops import model, start, with_variance
from torch import Tensor

Steps = Iterator[tuple[Tensor, Tensor]]
SHAPE = (2, 3, 6, 5)


def noise_of(seed: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed + b) for b in range(SHAPE[0])]


def tensor(seed: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed)).to(dtype)


def unclip(scheduler: object, x: Tensor, seed: int, begin: int = 0, ends: bool = True) -> Steps:
    times, generator = scheduler.timesteps, noise_of(seed)
    network = with_variance if scheduler.variance_type == "learned_range" else model

    def steps() -> Steps:
        y = x
        for i, t in enumerate(times[begin:], begin):
            end = times[i + 1] if ends and i + 1 < len(times) else None
            y, x0 = scheduler.step(network(y, t), t, y, end, generator=generator, return_dict=False)
            yield y, x0

    return steps()


def cogvideox(scheduler: object, x: Tensor, seed: int, begin: int = 0) -> Steps:
    times, generator = scheduler.timesteps, noise_of(seed)

    def steps() -> Steps:
        y, old = x, None
        for i, t in enumerate(times[begin:], begin):
            back = times[i - 1] if i > begin else None
            y, old = scheduler.step(model(y, t), old, t, back, y, generator=generator)
            yield y, old

    return steps()


def repaint(scheduler: object, x: Tensor, seed: int, begin: int = 0) -> Steps:
    times, generator = scheduler.timesteps, noise_of(seed)
    picture, mask = tensor(7, x.dtype), (tensor(8, x.dtype)[:, :1] > 0).to(x.dtype)

    def steps() -> Steps:
        y, last = x, times[begin] + 1
        for t in times[begin:]:
            if t < last:
                y, x0 = scheduler.step(model(y, t), t, y, picture, mask, generator, return_dict=False)
            else:
                y = scheduler.undo_step(y, last, generator)
            last = t
            yield y, x0

    return steps()


def wuerstchen(scheduler: object, x: Tensor, seed: int, begin: int = 0) -> Steps:
    times, generator = scheduler.timesteps, noise_of(seed)

    def steps() -> Steps:
        y = x
        for t in times[begin:-1]:
            (y,) = scheduler.step(model(y, 1000 * t), t.expand(len(y)), y, generator, return_dict=False)
            yield y, y

    return steps()


def towards_data(x: Tensor, sigma: Tensor | float) -> Tensor:
    """(x0 - x) / sigma of a gentle x0."""
    sigma = torch.as_tensor(sigma, dtype=torch.float64)
    y = x.double()
    return ((model(y / (1 + sigma**2).sqrt(), 300.0) - y) / sigma).to(x.dtype)


def karras_ve(scheduler: object, x: Tensor, seed: int, begin: int = 0) -> Steps:
    times, schedule, generator = scheduler.timesteps, scheduler.schedule, noise_of(seed)

    def steps() -> Steps:
        y = x
        for t in times[begin:]:
            sigma, below = schedule[t], schedule[t - 1] if t > 0 else 0
            hat, sigma_hat = scheduler.add_noise_to_input(y, sigma, generator)
            made = scheduler.step(towards_data(hat, sigma_hat), sigma_hat, below, hat)
            if t > 0:
                m, slope = towards_data(made.prev_sample, below), made.derivative
                made = scheduler.step_correct(m, sigma_hat, below, hat, made.prev_sample, slope)
            y = made.prev_sample
            yield y, made.pred_original_sample

    return steps()


def score_sde_ve(scheduler: object, x: Tensor, seed: int, begin: int = 0) -> Steps:
    scheduler.set_sigmas(len(scheduler.timesteps))
    times, sigmas, generator = scheduler.timesteps, scheduler.sigmas, noise_of(seed)

    def steps() -> Steps:
        y = x
        for sigma, t in zip(sigmas[begin:], times[begin:], strict=True):
            score = towards_data(y, sigma) / sigma
            y = scheduler.step_correct(score, y, generator=generator).prev_sample
            score = towards_data(y, sigma) / sigma
            y, mean = scheduler.step_pred(score, t, y, generator=generator, return_dict=False)
            yield y, mean

    return steps()


def score_sde_vp(scheduler: object, x: Tensor, seed: int, begin: int = 0) -> Steps:
    times, generator = scheduler.timesteps, noise_of(seed)

    def steps() -> Steps:
        y = x
        for t in times[begin:]:
            y, mean = scheduler.step_pred(model(y, 1000 * t), y, t, generator)
            yield y, mean

    return steps()


LOOPS: dict[str, Callable[..., Steps]] = {
    "CogVideoXDPMScheduler": cogvideox,
    "DDPMWuerstchenScheduler": wuerstchen,
    "KarrasVeScheduler": karras_ve,
    "RePaintScheduler": repaint,
    "ScoreSdeVeScheduler": score_sde_ve,
    "ScoreSdeVpScheduler": score_sde_vp,
    "UnCLIPScheduler": unclip,
}


def image(
    name: str, scheduler: object, n: int, dtype: torch.dtype = torch.float32, times: tuple = (), **how: object
) -> tuple[Tensor, Tensor, float]:
    """(x, x0 or the mean, the largest value on the way) after the run. times: more arguments of set_timesteps."""
    scheduler.set_timesteps(n, *times)
    first = start(scheduler, dtype=dtype)
    made = list(LOOPS[name](scheduler, first, 3, **how))
    return *made[-1], max(float(x.abs().max()) for x in (first, *(x for x, _ in made)))
