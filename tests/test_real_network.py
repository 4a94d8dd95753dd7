"""A diffusers U-Net driven by diffusers' own schedulers and by fastdiff: the same images, in float32."""

import diffusers
import numpy as np
import pytest
import torch

import fastdiff as fd


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    blocks = {"down_block_types": ("DownBlock2D", "AttnDownBlock2D"), "up_block_types": ("AttnUpBlock2D", "UpBlock2D")}
    sizes = {"sample_size": 16, "block_out_channels": (16, 32), "layers_per_block": 1, "norm_num_groups": 8}
    return diffusers.UNet2DModel(in_channels=3, out_channels=3, **sizes, **blocks).eval()


@pytest.mark.parametrize(
    ("scheduler", "solver"),
    [
        (diffusers.DPMSolverMultistepScheduler(final_sigmas_type="zero"), "dpmpp_2m"),
        (diffusers.UniPCMultistepScheduler(), "unipc"),
        (diffusers.DDIMScheduler(clip_sample=False, timestep_spacing="trailing"), "ddim"),
    ],
)
@torch.no_grad()
def test_the_same_times_give_the_same_images(scheduler, solver, network):
    noise = torch.randn(2, 3, 16, 16)
    scheduler.set_timesteps(10)
    x = noise
    for t in scheduler.timesteps:
        x = scheduler.step(network(x, t).sample, t, x).prev_sample
    times = scheduler.timesteps.numpy().astype(np.float64)
    plan = fd.plan(solver, fd.Schedule.linear(), grid=times, prediction="epsilon")
    ours = fd.sample(lambda x, t: network(x, t).sample, plan, noise)
    assert (ours - x).abs().max() <= 1e-5 * x.abs().max()
