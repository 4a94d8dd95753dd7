"""Bad input is refused before the first evaluation, by name; a bad model at its first output."""

import pytest
import torch

import fastdiff as fd

VP = fd.Schedule.scaled_linear()
PLAN = fd.plan("dpmpp_2m", VP, 3)
NOISE = torch.randn(2, 6)


def never(x, t, **kwargs):
    raise AssertionError("the model was called")


@pytest.mark.parametrize("entry_point", [fd.sample, fd.iter_sample])
@pytest.mark.parametrize(
    ("error", "changes", "message"),
    [
        (TypeError, {"plan": "dpmpp_2m"}, r"plan: expected a fastdiff\.Plan, got str"),
        (TypeError, {"noise": [1.0]}, r"noise: expected a torch\.Tensor, got list"),
        (TypeError, {"noise": torch.ones(2, 6, dtype=torch.int64)}, r"noise: expected float32.*got torch\.int64"),
        (ValueError, {"noise": torch.tensor(1.0)}, r"noise: expected \[B, \.\.\.\], got a scalar"),
        (ValueError, {"guidance": 2.0}, "uncond: guidance needs .* got None"),
        (ValueError, {"guidance": 2.0, "uncond": {}, "guidance_mode": "both"}, "guidance_mode: expected .* got 'both'"),
        (ValueError, {"guidance": torch.ones(3), "uncond": {}}, r"guidance: expected shape \(2,\), got \(3,\)"),
        (ValueError, {"guidance": 2.0, "uncond": {"y": 1}, "y": 2}, "uncond: y differs .* guidance_mode='calls'"),
        (ValueError, {"mask": torch.ones(2, 6)}, "mask: expected the image beside it, got None"),
        (ValueError, {"image": NOISE, "mask": torch.ones(5)}, r"mask: expected a shape that broadcasts to \(2, 6\)"),
        (ValueError, {"image": NOISE, "mask": torch.ones(1, 2, 6)}, r"mask: expected .* got \(1, 2, 6\)"),
        (TypeError, {"image": NOISE, "mask": 0.5}, r"mask: expected a torch\.Tensor, got float"),
        (ValueError, {"image": torch.ones(2, 5)}, r"image: expected shape \(2, 6\), got \(2, 5\)"),
        (TypeError, {"image": torch.ones(2, 6, dtype=torch.uint8)}, r"image: expected float32.*got torch\.uint8"),
        (ValueError, {"clamp": 0.0}, "clamp: expected a number > 0, got 0.0"),
        (ValueError, {"clamp": float("nan")}, "clamp: expected a number > 0, got nan"),
        (ValueError, {"threshold": -0.5}, "threshold: expected a number > 0, got -0.5"),
        (ValueError, {"threshold": 1.5}, r"threshold: expected a ratio in \(0, 1\], got 1.5"),
        (ValueError, {"threshold": 0.9, "threshold_limit": 0.5}, "threshold_limit: expected a number >= 1, got 0.5"),
        (ValueError, {"guidance": float("nan"), "uncond": {}}, "guidance: expected a finite number, got nan"),
        (ValueError, {"model_dtype": torch.int32}, "model_dtype: expected a floating-point dtype, got torch.int32"),
        (ValueError, {"seeds": [1, 2, 3]}, "seeds: expected one for each of the 2 samples"),
        (TypeError, {"seeds": [1.5, 2.5]}, "seeds: expected whole numbers"),
    ],
)
def test_bad_arguments_are_refused_before_the_model_is_called(entry_point, error, changes, message):
    with pytest.raises(error, match=message):
        entry_point(**{"model": never, "plan": PLAN, "noise": NOISE, **changes})


@pytest.mark.parametrize(
    ("error", "output", "options", "message"),
    [
        (TypeError, (NOISE, NOISE), {}, r"model: expected it to return a torch\.Tensor, .* got a tuple of 2"),
        (TypeError, None, {}, r"model: expected it to return a torch\.Tensor, .* got NoneType"),
        (ValueError, torch.ones(2, 12), {}, r"model: expected an output of shape \(2, 6\), got \(2, 12\)"),
        (ValueError, torch.ones(6), {}, "model: expected an output of shape"),
        (ValueError, torch.tensor(1.0), {}, "model: expected an output of shape"),
        (
            ValueError, NOISE, {"guidance": 2.0, "uncond": {}},
            r"model: expected an output of shape \(4, 6\), got \(2, 6\); guidance in one batch needs an output",
        ),
        (ValueError, torch.ones(2, 5), {"guidance": 2.0, "uncond": {}, "guidance_mode": "calls"}, r"got \(2, 5\)"),
    ],
)  # fmt: skip
def test_bad_model_outputs_are_refused_at_the_first_one(error, output, options, message):
    calls = []
    with pytest.raises(error, match=message):
        fd.sample(lambda x, t: calls.append(t) or output, PLAN, NOISE, **options)
    assert len(calls) == 1


def test_the_models_own_error_comes_through():
    with pytest.raises(AssertionError, match="the model was called"):
        fd.sample(never, PLAN, NOISE)
