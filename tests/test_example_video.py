"""The example of videos: digits move as they are made to, are tracked, and the schedulers' loop is fastdiff's Euler."""

from __future__ import annotations

import importlib

import torch

import fastdiff as fd

data, network, scores = (importlib.import_module(f"examples.video.{name}") for name in ("data", "network", "scores"))
video = importlib.import_module("examples.video.__main__")


def test_digits_move_at_constant_speed_inside_the_walls_and_are_tracked():
    made = data.videos(64)
    corner = made.place - (data.DIGIT - 1) / 2
    assert corner.min() >= 0
    assert corner.max() <= data.ROOM
    assert made.place.diff(dim=1).abs().max() <= data.SPEED[1] + 1e-4
    # The middle of the ink is the same place in every frame's digit, whichever digit it is.
    offset = scores.tracked(made.x) - made.place
    assert (offset - offset.mean(1, keepdim=True)).abs().median() < 0.1
    assert scores.unsteady(made.x) < 0.15 < scores.unsteady(made.x[:, :, torch.randperm(data.FRAMES)])
    assert scores.velocity_error(made.x, made.x) == 0


def test_diffusers_loop_and_fastdiffs_are_the_same_at_equal_settings():
    model, noise = network.Mover(8, 1), torch.randn(2, 1, data.FRAMES, data.SIZE, data.SIZE)
    for block in model.blocks:
        torch.nn.init.normal_(block.frames.weight, std=0.1)
    with torch.no_grad():
        theirs = video.loop(model, video.FlowMatchEulerDiscreteScheduler(), 5)(noise)
        scheduler = video.FlowMatchEulerDiscreteScheduler()
        scheduler.set_timesteps(5)
        plan = fd.plan("euler", fd.Schedule.flow(), sigmas=scheduler.sigmas)
        torch.testing.assert_close(fd.sample(model, plan, noise), theirs, rtol=1e-4, atol=1e-5)


def test_the_example_runs_and_known_frames_stay(tmp_path, capsys):
    video.main(["--quick", "--out", str(tmp_path)])
    printed = [line.split("|")[1].strip() for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert [name for name in printed if name in ("FlowMatchEuler (LTX)", "UniPC (Wan)", "fastdiff")]
    assert [name for name in printed if "observation" in name]
    assert all(500 < (tmp_path / name).stat().st_size < 150_000 for name in ("video.png", "video.gif"))
    truth, model = data.videos(2).x, network.Mover(8, 1)
    by_mask = dict(video.predicted(model, truth, torch.randn_like(truth), 6))["first frames by mask"]
    torch.testing.assert_close(by_mask[:, :, : video.GIVEN], truth[:, :, : video.GIVEN])
