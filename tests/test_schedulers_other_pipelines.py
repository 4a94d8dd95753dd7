"""Pipelines with schedulers of their own: with fastdiff's class of the same name they draw the same."""

from __future__ import annotations

import diffusers
import pytest
import tiny_other_pipelines as other
import tiny_pipelines as tiny
import torch
from test_schedulers_pipelines import assert_same, draw, run

from fastdiff import schedulers

pytestmark = [pytest.mark.filterwarnings(f"ignore::{kind}Warning") for kind in ("Future", "Deprecation", "User")]
V = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
PARADIGMS = {**tiny.STABLE_DIFFUSION, "set_alpha_to_one": True}
CASES = [
    (other.cogvideox, "CogVideoXDDIMScheduler", V),
    (other.cogvideox, "CogVideoXDPMScheduler", V),
    (other.stable_audio, "CosineDPMSolverMultistepScheduler", {}),
    (other.kandinsky_prior, "UnCLIPScheduler", {"prediction_type": "sample", "clip_sample_range": 5.0}),
    (other.wuerstchen_prior, "DDPMWuerstchenScheduler", {}),
    (other.repaint, "RePaintScheduler", {"num_train_timesteps": 50}),
    (other.karras_ve, "KarrasVeScheduler", {"sigma_max": 10.0}),
    (other.score_sde_ve, "ScoreSdeVeScheduler", {"sigma_max": 5.0, "correct_steps": 2}),
    (other.paradigms, "DDIMParallelScheduler", PARADIGMS),
    (other.paradigms, "DDPMParallelScheduler", {k: v for k, v in PARADIGMS.items() if k != "set_alpha_to_one"}),
    (tiny.text_to_image, "SASolverScheduler", {k: v for k, v in tiny.STABLE_DIFFUSION.items() if "beta" in k}),
]
# Of the result's range. In float32 diffusers' last step of UnCLIP scales it by 0.9996: beta over 1 - (1 - beta).
TOLERANCE = {other.kandinsky_prior: 2e-3, other.karras_ve: 3e-4}
each = pytest.mark.parametrize(("client", "name", "config"), CASES, ids=lambda part: getattr(part, "__name__", None))


@each
def test_the_result_stays_the_same(client, name, config, seed):
    """Whatever the random noise: the networks are the same in every run."""
    made = [draw(client, getattr(library, name)(**config), seed) for library in (schedulers, diffusers)]
    assert_same(*made, TOLERANCE.get(client, 1e-4))


def test_a_saved_pipeline_comes_back_with_fastdiffs_scheduler(seed, tmp_path):
    pipe, arguments = other.repaint(schedulers.RePaintScheduler(num_train_timesteps=50))
    pipe.save_pretrained(tmp_path)
    again = diffusers.RePaintPipeline.from_pretrained(tmp_path)
    assert type(again.scheduler) is schedulers.RePaintScheduler
    assert torch.equal(run(again, seed, **arguments), run(pipe, seed, **arguments))
