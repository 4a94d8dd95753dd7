"""Flow-map models: told where to go, they are right in any number of steps."""

import numpy as np
import pytest
import torch
from gaussian import DATA

import fastdiff as fd

FLOW = fd.Schedule.flow()


def mean_velocity(x, t, r):
    """(x_r - x_t) / (r - t) of the exact flow of Gaussian data."""
    spread = [(((1 - s) ** 2)[:, None] * torch.from_numpy(DATA.variance) + (s**2)[:, None]).sqrt() for s in (t, r)]
    mean = torch.from_numpy(DATA.mean)
    x_r = (1 - r)[:, None] * mean + spread[1] / spread[0] * (x - (1 - t)[:, None] * mean)
    return (x_r - x) / (r - t)[:, None]


@pytest.mark.parametrize("grid", ["time", "quadratic", "logsnr"])
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_euler_with_a_flow_map_is_exact_in_any_number_of_steps(steps, grid):
    plan = fd.plan("euler", FLOW, steps, grid=grid, prediction="flow_prediction")
    noise = torch.randn(3, 4, dtype=torch.float64)
    exact = DATA.flow(noise.numpy(), (0.0, 1.0))(1.0, 0.0)
    drawn = fd.sample(fd.flow_map(mean_velocity, plan), plan, noise)
    np.testing.assert_allclose(drawn.numpy(), exact, rtol=1e-12, atol=1e-12)


def test_the_model_is_told_the_next_time_in_its_own_dtype_and_keeps_its_arguments():
    plan, told = fd.plan("euler", FLOW, 3, prediction="flow_prediction"), []

    def model(x, t, r, scale):
        told.append((float(t[0]), float(r[0]), t.dtype, r.dtype, r.shape, scale))
        return x

    fd.sample(fd.flow_map(model, plan), plan, torch.randn(5, 2), scale=2.0)
    assert [r for _, r, *_ in told] == pytest.approx([2 / 3, 1 / 3, 0])
    assert {tuple(rest) for _, _, *rest in told} == {(torch.float32, torch.float32, (5,), 2.0)}


def test_plans_that_are_no_flow_maps_are_refused():
    for plan, message in [
        (fd.plan("ddim", fd.Schedule.vp(), 4), "expected a flow schedule and flow_prediction, got epsilon"),
        (fd.plan("ddim", fd.Schedule.vp(), 4, prediction="flow_prediction"), "expected a flow schedule"),
        (fd.plan("plms", FLOW, 4, prediction="flow_prediction", start=0.5), "one evaluation a step"),
    ]:
        with pytest.raises(ValueError, match=message):
            fd.flow_map(mean_velocity, plan)
