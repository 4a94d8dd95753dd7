"""What draws slices, and what reconstructs them."""

from __future__ import annotations

import torch
from monai.inferers import DiffusionInferer
from monai.networks.schedulers import DDIMScheduler
from torch import Tensor

import fastdiff as fd
from fastdiff import posterior
from fastdiff.demo import DemoNetwork
from fastdiff.hosts import monai

from ..posterior.methods import Draw, by, without_network
from ..posterior.problem import Network, Problem
from .network import NOISES


def schedulers() -> dict[str, torch.nn.Module]:
    return {
        "MONAI's DDIM": DDIMScheduler(**NOISES),
        "fastdiff's DDIM": monai.DDIMScheduler(**NOISES),
        "PlanScheduler": monai.PlanScheduler(DDIMScheduler(**NOISES)),
    }


@torch.no_grad()
def inferred(scheduler: torch.nn.Module, net: DemoNetwork, noise: Tensor, evaluations: int) -> Tensor:
    """[N, 1, 48, 48] by MONAI's inferer."""
    scheduler.set_timesteps(evaluations)
    return DiffusionInferer(scheduler).sample(noise, net.model, verbose=False)


def dps(strength: float) -> Draw:
    """Diffusion posterior sampling in MONAI's loop (Chung et al. 2023, algorithm 1), two passes a step."""

    def draw(model: Network, problem: Problem, members: int, passes: int) -> Tensor:
        scheduler, count = DDIMScheduler(**NOISES), members * len(problem.truth)
        scheduler.set_timesteps(passes // 2)
        y, x = problem.y.repeat(members, 1, 1, 1), fd.noise.randn((count, *problem.net.shape), range(count))
        for t in scheduler.timesteps:
            x.requires_grad_()
            after, x0 = scheduler.step(model(x, t.float().expand(count)), t, x)
            distance = (y - problem.A(x0)).abs().square().flatten(1).sum(1).sqrt().sum()
            x = (after - strength * torch.autograd.grad(distance, x)[0]).detach()
        return x

    return draw


def reconstructions(prior: fd.GaussianStart) -> dict[str, dict[str, Draw]]:
    """{method: {strength: draw}}; of DPS and of "gradient" the strength is chosen by the truth."""
    return {
        "Gaussian data, no network": {"": without_network(prior)},
        "DPS, MONAI's DDIM": {f"{v}": dps(v) for v in (0.3, 1, 3, 10)},
        "fastdiff, gradient": {f"{v}": by(posterior.Gradient(v), 2) for v in (0.1, 0.3, 1)},
        "fastdiff, moment": {"": by("moment", 5)},
        "fastdiff, gaussian": {"": by(posterior.GaussianPrior(prior), 3)},
    }
