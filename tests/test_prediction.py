"""Whatever the model predicts, D is the same x0 and the same eps."""

import numpy as np
import pytest

from fastdiff.plans.prediction import FORMS, PREDICTIONS, convert

POINTS = [(0.6, 0.8), (1.0, 37.0), (0.25, 0.75), (0.999, 0.01), (1.0, 1e-3), (1e-4, 1.0)]


def model_output(prediction: str, x0: np.ndarray, eps: np.ndarray, alpha: float, sigma: float) -> np.ndarray:
    return {
        "epsilon": eps,
        "sample": x0,
        "v_prediction": alpha * eps - sigma * x0,
        "flow_prediction": eps - x0,
        "score": -eps / sigma,
    }[prediction]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize(("alpha", "sigma"), POINTS)
def test_model_output_and_x_give_back_x0_eps_and_velocity(alpha, sigma, prediction, form):
    x0, eps = np.random.standard_normal((2, 50))
    x = alpha * x0 + sigma * eps
    p_x, p_m = convert(prediction, form, alpha, sigma)
    d = p_x * x + p_m * model_output(prediction, x0, eps, alpha, sigma)
    # Where one part of x is small its unknown is divided by it: the rounding of x and m grows by that much.
    divisor = {"data": alpha, "noise": sigma, "flow": min(alpha, sigma)}[form]
    expected = {"data": x0, "noise": eps, "flow": eps - x0}[form]
    np.testing.assert_allclose(d, expected, rtol=0, atol=6e-15 / divisor * max(1, sigma))


@pytest.mark.parametrize("form", ["data", "noise"])
@pytest.mark.parametrize("prediction", ["epsilon", "score"])
def test_noise_predictions_are_refused_at_zero_snr_with_what_to_use(prediction, form):
    with pytest.raises(ValueError, match=f"{prediction} says nothing about x0.*v_prediction or flow_prediction"):
        convert(prediction, form, 0.0, 1.0)


@pytest.mark.parametrize("prediction", ["sample", "v_prediction", "flow_prediction"])
def test_the_others_give_x0_at_zero_snr(prediction):
    x0, eps = np.random.standard_normal((2, 50))
    p_x, p_m = convert(prediction, "data", 0.0, 1.0)
    np.testing.assert_allclose(p_x * eps + p_m * model_output(prediction, x0, eps, 0.0, 1.0), x0, atol=1e-15)


@pytest.mark.parametrize("prediction", ["sample", "score"])
def test_data_predictions_are_refused_where_there_is_no_noise(prediction):
    with pytest.raises(ValueError, match=f"{prediction} says nothing about the noise where sigma = 0"):
        convert(prediction, "noise", 1.0, 0.0)


def test_unknown_prediction_lists_all():
    with pytest.raises(ValueError, match="epsilon, sample, v_prediction, flow_prediction, score, got 'velocity'"):
        convert("velocity", "data", 1.0, 1.0)
