"""Around the losses of training: laws of times, importance, averages of weights, lost conditions, masked tokens."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

import fastdiff as fd
from fastdiff import training
from fastdiff.training.averages import power_of

# Times.


@pytest.mark.parametrize("shuffle", [True, False])
def test_strata_have_one_number_in_each_interval(shuffle):
    u = training.strata(50, shuffle=shuffle)
    assert sorted((50 * u.double()).floor().int().tolist()) == list(range(50))
    assert shuffle or u.tolist() == sorted(u.tolist())


def test_each_stratum_is_anywhere_in_its_interval():
    """The mean of uniform numbers, within seven standard errors."""
    inner = 10_000 * training.strata(10_000, shuffle=False).double() - torch.arange(10_000)
    assert abs(inner.mean() - 0.5) < 7 * (1 / 12) ** 0.5 / 100


def test_uniform_times_span_the_schedule():
    u = torch.tensor([0.0, 0.25, 1.0])
    assert training.uniform(fd.Schedule.cosine(), u).tolist() == [0, 249.75, 999]
    vp = training.uniform(fd.Schedule.vp(), u)
    torch.testing.assert_close(vp, 1e-3 + 0.999 * u)


def test_uniform_flow_times_are_shifted_and_begin_where_the_target_is_finite():
    schedule, u = fd.Schedule.flow(shift=3.0), torch.tensor([0.0, 0.25, 1.0])
    torch.testing.assert_close(training.uniform(schedule, u), 3 * u / (1 + 2 * u))
    assert training.uniform(schedule, u, "epsilon")[0] == pytest.approx(schedule.t_min)


def test_times_on_a_clock_that_runs_from_noise_to_data_go_backwards():
    backwards = fd.Schedule.from_functions(lambda t: t, lambda t: 1 - t, 1.0, 0.0)
    u = torch.rand(6, dtype=torch.float64)
    for law in (training.uniform, training.logit_normal, training.log_normal):
        torch.testing.assert_close(law(backwards, u), 1 - law(fd.Schedule.flow(), u))


@pytest.mark.parametrize("schedule", [fd.Schedule.edm(), fd.Schedule.vp(), fd.Schedule.scaled_linear()])
def test_log_normal_times_have_normal_log_noise(schedule):
    u = torch.linspace(0.3, 0.9, 7, dtype=torch.float64)
    found = -schedule.log_snr(training.log_normal(schedule, u, -0.4, 0.8).numpy())
    np.testing.assert_allclose(found, -0.4 + 0.8 * torch.special.ndtri(u), atol=1e-9)
    ends = training.log_normal(schedule, torch.tensor([0.0, 1.0]))
    assert ends.tolist() == pytest.approx([schedule.t_min, schedule.t_max])


def test_logit_normal_times_have_normal_logits():
    u = torch.linspace(0.1, 0.9, 5, dtype=torch.float64)
    t = training.logit_normal(fd.Schedule.flow(), u, -0.5, 0.7)
    torch.testing.assert_close(torch.logit(t), -0.5 + 0.7 * torch.special.ndtri(u))
    assert training.logit_normal(fd.Schedule.cosine(), torch.tensor([0.5])).item() == pytest.approx(499.5)


@pytest.mark.parametrize("law", [training.logit_normal, training.log_normal])
def test_a_law_needs_a_width(law):
    with pytest.raises(ValueError, match="std: expected a number > 0, got 0"):
        law(fd.Schedule.edm(), torch.rand(2), 0.0, 0.0)


# Importance.


def taught(losses, history=3):
    """A chooser whose bins have had these losses [bins, draws]."""
    bins, draws = losses.shape
    chooser = training.Importance(bins, history=history, floor=0.01)
    for i in range(draws):
        chooser.update((torch.arange(bins) + 0.5) / bins, losses[:, i])
    return chooser


def test_importance_is_even_until_every_bin_has_its_history():
    chooser = taught(torch.rand(4, 3))
    assert chooser.probabilities().std() > 0
    chooser.counts[2] = 2
    assert chooser.probabilities().tolist() == [0.25] * 4
    assert chooser.draw(5)[1].tolist() == [1.0] * 5


def test_importance_goes_by_the_root_mean_square_of_the_last_losses():
    losses = torch.rand(5, 7).double()
    p = taught(losses).probabilities()
    size = losses[:, -3:].square().mean(1).sqrt()
    torch.testing.assert_close(p, 0.99 * size / size.sum() + 0.01 / 5)


def test_importance_leaves_the_mean_as_it_is():
    """Exact: sum_i p_i w_i f_i = mean f, with the weight that draws of bin i have; and u is inside of its bin."""
    chooser = taught(torch.rand(6, 3))
    u, weight = chooser.draw(400)
    places, p = (6 * u.double()).long(), chooser.probabilities()
    torch.testing.assert_close(weight.double(), 1 / (6 * p[places]), rtol=1e-6, atol=0)
    expected = 400 * p
    error = torch.bincount(places, minlength=6) - expected
    assert (error.abs() < 7 * (expected * (1 - p)).sqrt()).all()


def test_importance_goes_on_from_its_state():
    chooser, other = taught(torch.rand(4, 5)), training.Importance(4, history=3, floor=0.01)
    other.load_state_dict(chooser.state_dict())
    for each in (chooser, other):
        each.update(torch.tensor([0.1, 0.6]), torch.tensor([2.0, 3.0]))
    assert torch.equal(chooser.probabilities(), other.probabilities())
    drawn = [each.draw(6, generator=torch.Generator().manual_seed(1))[0] for each in (chooser, other)]
    assert torch.equal(*drawn)


def test_importance_names_what_is_wrong():
    with pytest.raises(ValueError, match="floor: expected a number in"):
        training.Importance(4, floor=0.0)
    with pytest.raises(ValueError, match="losses: expected"):
        training.Importance(4).update(torch.rand(3), torch.rand(2))
    with pytest.raises(ValueError, match="state: expected losses"):
        training.Importance(4).load_state_dict(training.Importance(5).state_dict())


# Averages.


def followed(average, model, weights):
    for value in weights:
        with torch.no_grad():
            model.weight.fill_(value)
        average.update_parameters(model)
    return float(average.module.weight.detach())


def linear():
    return nn.Linear(1, 1, bias=False).double()


def test_a_constant_decay_weighs_geometrically():
    model, weights = linear(), np.random.default_rng().normal(size=8)
    found = followed(training.averaged(model, 0.8), model, weights)
    share = 0.2 * 0.8 ** np.arange(7, -1, -1.0)
    share[0] = 0.8**7
    assert found == pytest.approx(float(share @ weights))


def test_a_warm_average_is_the_plain_mean_at_first():
    """d_t = t / (t + 1): the weights are 2/3, 1/3, then (2, 1, 1) / 4, and so on."""
    model, weights = linear(), np.random.default_rng().normal(size=9)
    found = followed(training.averaged(model, 0.999, warmup=1), model, weights)
    assert found == pytest.approx((weights[0] + weights.sum()) / 10)


@pytest.mark.parametrize("width", [0.05, 0.15, 0.25])
def test_a_power_average_weighs_steps_by_their_power(width):
    """Of step s of t: (s^(gamma + 1) - (s - 1)^(gamma + 1)) / t^(gamma + 1)."""
    model, weights = linear(), np.random.default_rng().normal(size=12)
    found = followed(training.power_averaged(model, width), model, weights)
    power = np.arange(13.0) ** (power_of(width) + 1)
    assert found == pytest.approx(float(np.diff(power) @ weights / power[-1]))


@pytest.mark.parametrize("width", [0.01, 0.05, 0.1, 0.28])
def test_the_width_is_the_standard_deviation_of_the_profile(width):
    gamma = power_of(width)
    mean, square = (gamma + 1) / (gamma + 2), (gamma + 1) / (gamma + 3)  # of s with density (gamma + 1) s^gamma
    assert math.sqrt(square - mean**2) == pytest.approx(width, rel=1e-6)


def test_an_average_goes_on_from_its_state():
    model, weights = linear(), np.random.default_rng().normal(size=10)
    whole = followed(training.power_averaged(model), model, weights)
    half = training.power_averaged(model)
    followed(half, model, weights[:6])
    resumed = training.power_averaged(linear())
    resumed.load_state_dict(half.state_dict())
    assert followed(resumed, model, weights[6:]) == whole


def test_averages_name_what_is_wrong():
    for call, words in (
        (lambda: training.averaged(linear(), 1.5), "decay: expected a number in"),
        (lambda: training.averaged(linear(), warmup=-1), "warmup: expected a number >= 0"),
        (lambda: training.power_averaged(linear(), 0.3), "width: expected a number in"),
    ):
        with pytest.raises(ValueError, match=words):
            call()


# Conditions.


def test_samples_lose_all_of_their_conditions_or_none():
    y, text = torch.arange(1, 1001), torch.randn(1000, 2, 3)
    empty = torch.zeros(1, 2, 3)
    told = training.drop_conditions({"y": y, "text": text, "size": 4}, 0.3, {"y": 0, "text": empty})
    lost = told["y"] == 0
    assert torch.equal(told["y"][~lost], y[~lost])
    assert torch.equal(told["text"], torch.where(lost[:, None, None], empty, text))
    assert told["size"] == 4
    assert abs(int(lost.sum()) - 300) < 7 * math.sqrt(1000 * 0.3 * 0.7)


def test_probabilities_zero_and_one_are_certain_and_dtypes_stay():
    given = {"y": torch.arange(5, dtype=torch.int32), "text": torch.randn(5, 2).half()}
    for probability, kept in ((0.0, True), (1.0, False)):
        told = training.drop_conditions(given, probability, {"y": -1, "text": 0.0})
        for name, nothing in (("y", -1), ("text", 0)):
            assert told[name].dtype == given[name].dtype
            assert torch.equal(told[name], given[name] if kept else torch.full_like(given[name], nothing))


def test_a_generator_loses_the_same_again():
    y = torch.arange(1, 100)
    one, other = (
        training.drop_conditions({"y": y}, 0.5, {"y": 0}, generator=torch.Generator().manual_seed(2)) for _ in range(2)
    )
    assert torch.equal(one["y"], other["y"])


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (({"y": torch.zeros(2)}, 1.1, {"y": 0}), ValueError, "probability: expected"),
        (({"y": torch.zeros(2)}, 0.1, {"z": 0}), KeyError, "nothing: z is no condition; those are y"),
        (({"y": None}, 0.1, {"y": 0}), TypeError, "y: expected a torch.Tensor"),
        (({"y": torch.zeros(2), "z": torch.zeros(3)}, 0.1, {"y": 0, "z": 0}), ValueError, "one batch size"),
    ],
)
def test_conditions_name_what_is_wrong(arguments, error, words):
    with pytest.raises(error, match=words):
        training.drop_conditions(*arguments)


# Tokens.


def test_masked_rows_are_stratified_and_weigh_the_same():
    x0 = torch.randint(0, 9, (20, 40))
    x, masked, weight = training.mask_tokens(x0, 9)
    count = masked.sum(1)
    expected = 1 + 2 * torch.arange(20)  # one in each of 20 strata of 40 counts
    assert ((count.sort().values - expected) >= 0).all()
    assert ((count.sort().values - expected) <= 1).all()
    assert torch.equal(x, torch.where(masked, 9, x0))
    row = masked.nonzero()[:, 0]
    torch.testing.assert_close(torch.zeros(20).index_add_(0, row, weight), torch.full((20,), 1 / 20))


def test_the_masked_loss_of_the_tokens_own_law_is_its_cross_entropy():
    p = torch.rand(6).softmax(0)
    x0 = torch.full((8, 10), 4)
    found = training.masked_loss(lambda x: p.log().expand(*x.shape, 6), x0, 5, shares=(0.2, 0.9))
    assert float(found) == pytest.approx(-math.log(p[4]), rel=1e-5)


def test_masks_come_again_from_a_generator_and_shares_are_checked():
    x0 = torch.zeros(5, 12, dtype=torch.int64)
    one, other = (training.mask_tokens(x0, 1, generator=torch.Generator().manual_seed(4)).x for _ in range(2))
    assert torch.equal(one, other)
    with pytest.raises(ValueError, match="shares: expected 0 <= least <= most <= 1"):
        training.mask_tokens(x0, 1, shares=(0.5, 0.2))
