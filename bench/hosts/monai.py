"""MONAI's schedulers in its DiffusionInferer, beside the same inferer with fastdiff's."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from monai.inferers import DiffusionInferer
from monai.networks.schedulers import DDIMScheduler, PNDMScheduler, RFlowScheduler, Scheduler
from torch import Tensor, nn

import fastdiff as fd
from fastdiff.hosts import monai as ours

from ..mixtures import Mean, predictor
from .row import EVALUATIONS, SHAPES, Row, error, mean_of, parity, start, version

CONVERGED = 1000  # evaluations


class Network(nn.Module):
    """An exact model as MONAI's networks are called. sign: -1 for MONAI's flow, which predicts x0 - eps."""

    def __init__(self, model: Callable[[Tensor, Tensor], Tensor], unit: float = 1.0, sign: float = 1.0) -> None:
        super().__init__()
        self.model, self.unit, self.sign, self.calls = model, unit, sign, 0

    def forward(self, x: Tensor, timesteps: Tensor, context: Tensor | None = None) -> Tensor:
        self.calls += 1
        times = (timesteps.double() / self.unit).expand(len(x))
        return self.sign * self.model(x.flatten(1), times).view_as(x)


def draw(scheduler: Scheduler, network: Network, noise: Tensor, steps: int) -> Tensor:
    scheduler.set_timesteps(steps)
    network.calls = 0
    return DiffusionInferer(scheduler).sample(noise, network, verbose=False)


def rows() -> Iterator[Row]:
    for shape in SHAPES:
        mean, noise = mean_of(shape), start(shape)[:, None, :, None]
        yield from diffusion(f"DiffusionInferer, linear betas, {shape.name}", mean, noise)
        yield from flow(f"DiffusionInferer, rectified flow, {shape.name}", mean, noise)


def diffusion(use: str, mean: Mean, noise: Tensor) -> Iterator[Row]:
    trained = DDIMScheduler(clip_sample=False)
    schedule = fd.Schedule.from_alphas_cumprod(trained.alphas_cumprod.double().numpy())
    model = predictor(mean, schedule, "epsilon")
    network = Network(model)
    plan = fd.plan("dpm_solver_2m", schedule, CONVERGED, grid="quadratic")
    exact = fd.sample(model, plan, noise.flatten(1)).view_as(noise)
    pndm = PNDMScheduler(skip_prk_steps=True, set_alpha_to_one=True)
    for n in (*EVALUATIONS, 1000):
        same = draw(ours.DDIMScheduler(clip_sample=False, compat=True), network, noise, n)
        ddim, best = draw(trained, network, noise, n), draw(ours.PlanScheduler(trained), network, noise, n)
        calls = network.calls
        assert calls == n
        names = ("DDIMScheduler", error(ddim, exact), "PlanScheduler", error(best, exact))
        yield Row("monai", version("monai"), use, n, *names, parity(same, ddim), n == 1000)
        if n <= 10:
            y = draw(pndm, network, noise, n)
            yield Row("monai", version("monai"), use, n, "PNDMScheduler", error(y, exact), *names[2:])


def flow(use: str, mean: Mean, noise: Tensor) -> Iterator[Row]:
    trained, schedule = RFlowScheduler(), fd.Schedule.flow()
    model = predictor(mean, schedule, "flow_prediction")
    network = Network(model, 1000.0, -1.0)
    exact = fd.sample(model, fd.plan("heun", schedule, CONVERGED // 2), noise.flatten(1)).view_as(noise)
    for n in (*EVALUATIONS, 30):
        same, own = draw(ours.RFlowScheduler(), network, noise, n), draw(trained, network, noise, n)
        best = draw(ours.PlanScheduler(trained), network, noise, n)
        names = ("RFlowScheduler", error(own, exact), "PlanScheduler", error(best, exact))
        yield Row("monai", version("monai"), use, n, *names, parity(same, own), n == 30)
