"""Restoration on a pipeline's latents: A is the decoder and what is measured of its picture."""

from __future__ import annotations

import diffusers
import pytest
import tiny_pipelines as tiny
import torch
from torch import Tensor
from torch.nn import functional as F

import fastdiff as fd
from fastdiff.posterior.likelihood import Gaussian
from fastdiff.posterior.linearised import Linearised
from fastdiff.posterior.operators import operator_of

STEPS = 6
KINDS = {
    "stable diffusion": (tiny.text_to_image, lambda: diffusers.DDIMScheduler(**tiny.STABLE_DIFFUSION)),
    "flow": (tiny.sd3, diffusers.FlowMatchEulerDiscreteScheduler),
}


class Restoration:
    """Two small pictures of latents, a tenth of their spread as noise, and the pipeline that is to find the latents."""

    def __init__(self, kind: str) -> None:
        build, scheduler = KINDS[kind]
        self.pipe, call = build(scheduler())
        self.pipe.set_progress_bar_config(disable=True)
        self.pipe.unet = tiny.copied(self.pipe.unet) if hasattr(self.pipe, "unet") else None
        given = {**call, "guidance_scale": 1.0, "generator": torch.Generator().manual_seed(int(torch.randint(99, ())))}
        self.denoiser = fd.pipelines.denoiser(self.pipe, **given)
        with torch.no_grad():
            y = self.small(torch.randn_like(self.denoiser.noise))
        self.observation = fd.Observation(self.small, y, noise=0.1 * float(y.std()))
        self.plan = fd.plan("dpm_solver_2m", self.denoiser.schedule, STEPS)

    def small(self, z: Tensor) -> Tensor:
        """The decoded picture, a quarter as wide."""
        vae = self.pipe.vae
        z = z / vae.config.scaling_factor + (vae.config.shift_factor or 0.0)
        return F.avg_pool2d(vae.decode(z, return_dict=False)[0], 4)

    def draw(self, **options: object) -> Tensor:
        d = self.denoiser
        return fd.sample(d.model, self.plan, d.noise, **d.conditions, **options)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_the_pictures_of_latents_come_near_to_what_was_measured(kind):
    problem = Restoration(kind)
    before = problem.observation.misfit(problem.draw())
    after = problem.observation.misfit(problem.draw(observation=problem.observation))
    assert (after < 0.3 * before).all()


@pytest.mark.slow
def test_gradient_checkpointing_changes_no_number():
    problem = Restoration("stable diffusion")
    problem.plan = fd.plan("ddim", problem.denoiser.schedule, 2)
    options = {"observation": problem.observation, "correction": fd.posterior.Moment(iterations=1)}
    whole = problem.draw(**options)
    problem.pipe.unet.enable_gradient_checkpointing()
    torch.testing.assert_close(problem.draw(**options), whole, rtol=1e-3, atol=1e-3)


def test_attention_inside_a_has_its_derivative():
    """Fused attention has no second derivative; what A does to a small change needs one."""
    x, change, step = torch.randn(2, 1, 6, 4, dtype=torch.float64), torch.randn(2, 1, 6, 4, dtype=torch.float64), 1e-5

    def A(x: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(x, x, x)

    local = Linearised(operator_of(A, None, None, False), x, A(x), Gaussian(0.1))
    difference = (A(x + step * change) - A(x - step * change)) / (2 * step)
    torch.testing.assert_close(local.push(change), difference, rtol=1e-5, atol=1e-7)
