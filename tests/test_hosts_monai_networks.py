"""`fastdiff.hosts.monai` with MONAI's own networks and inferers, in two and three dimensions."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import fastdiff as fd

pytestmark = pytest.mark.hosts


@pytest.fixture(scope="module")
def ours():
    pytest.importorskip("monai")
    from fastdiff.hosts import monai

    return monai


def network(dims: int, channels: int, **options):
    """A tiny U-Net whose last layers, which MONAI makes of zeros, say something."""
    from monai.networks.nets import DiffusionModelUNet

    made = DiffusionModelUNet(
        dims, channels, 1, num_res_blocks=1, channels=(8, 16), attention_levels=(False, True), num_head_channels=8,
        norm_num_groups=4, **options,
    )  # fmt: skip
    for weights in made.parameters():
        if not weights.any():
            torch.nn.init.normal_(weights, std=0.1)
    return made.eval()


def expected(made, schedule: fd.Schedule, noise: Tensor, call) -> Tensor:
    plan = fd.plan(None, schedule, 4, prediction="epsilon")
    return fd.sample(lambda x, t: call(x, t[:1]), plan, noise / plan.init_scale)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("mode", ["crossattn", "concat"])
def test_an_inferer_draws_what_sample_draws(ours, dims, mode):
    from monai.inferers import DiffusionInferer
    from monai.networks.schedulers import DDPMScheduler

    trained = DDPMScheduler(clip_sample=False)
    schedule = fd.Schedule.from_alphas_cumprod(trained.alphas_cumprod.double().numpy())
    noise = torch.randn(2, 1, *[8] * dims)
    if mode == "crossattn":
        made, condition = network(dims, 1, with_conditioning=True, cross_attention_dim=6), torch.randn(2, 3, 6)
        exact = expected(made, schedule, noise, lambda x, t: made(x, t, context=condition))
    else:
        made, condition = network(dims, 2), torch.randn_like(noise)
        exact = expected(made, schedule, noise, lambda x, t: made(torch.cat([x, condition], dim=1), t))
    inferer = DiffusionInferer(ours.PlanScheduler(trained))
    inferer.scheduler.set_timesteps(4)
    x = inferer.sample(noise, made, conditioning=condition, mode=mode, verbose=False)
    torch.testing.assert_close(x, exact, rtol=1e-3, atol=1e-3 * float(exact.abs().max()))


def test_a_latent_inferer_decodes_and_a_controlnet_is_asked(ours):
    from monai.inferers import ControlNetDiffusionInferer, LatentDiffusionInferer
    from monai.networks.schedulers import RFlowScheduler

    class Autoencoder:
        def decode_stage_2_outputs(self, z: Tensor) -> Tensor:
            return 2 * z

    class ControlNet:
        calls = 0

        def __call__(self, x: Tensor, timesteps: Tensor, controlnet_cond: Tensor, context: Tensor | None = None):
            self.calls += 1
            return None, None

    scheduler, made, noise = ours.PlanScheduler(RFlowScheduler()), network(2, 1), torch.randn(2, 1, 8, 8)
    scheduler.set_timesteps(4)
    control, given = ControlNet(), {"scheduler": scheduler, "verbose": False}
    plain = ControlNetDiffusionInferer(scheduler).sample(noise, made, control, torch.zeros(2, 1, 8, 8), **given)
    decoded = LatentDiffusionInferer(scheduler, scale_factor=0.5).sample(noise, Autoencoder(), made, **given)
    torch.testing.assert_close(decoded, 4 * plain)
    assert control.calls == 4


def test_the_likelihood_is_monais(ours):
    from monai.inferers import DiffusionInferer
    from monai.networks.schedulers import DDPMScheduler

    made, x, found = network(2, 1), torch.rand(2, 1, 8, 8), []
    for scheduler in (DDPMScheduler(), ours.DDPMScheduler()):
        scheduler.set_timesteps(3)
        torch.manual_seed(0)
        found.append(DiffusionInferer(scheduler).get_likelihood(x, made, verbose=False))
    torch.testing.assert_close(*found)
