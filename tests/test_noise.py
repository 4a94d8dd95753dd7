"""Counter-based noise: whose sample b is a function of seeds[b] alone."""

import numpy as np
import pytest
import torch
from scipy import stats

import fastdiff as fd
from fastdiff.sampling.noise import randn


def test_known_answers():
    """Philox4x32-10 of counter and key 0 is 6627e8d5 e169c58d bc57ac4c 9b00dbd8 (its authors' kat_vectors).

    The second line has block 1, noise 3 and a seed of two words. Box-Muller in forty digits, of u rounded to float32.
    """
    first = [0.99113766587741, -0.92466257591105, -0.61760898417073, -0.48206860604854]
    second = [-1.4329347707909, 0.67828366654724, 0.11741238433782, -1.0960011552261]
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 2e-6)):
        np.testing.assert_allclose(randn([1, 4], [0], dtype=dtype)[0], first, rtol=tolerance)
        np.testing.assert_allclose(randn([1, 8], [2**40 + 7], index=3, dtype=dtype)[0, 4:], second, rtol=tolerance)


def test_noise_is_standard_normal_across_elements_seeds_and_indices():
    for sample in (
        randn([1, 40000], [12345], dtype=torch.float64),
        randn([40000, 1], torch.arange(40000), dtype=torch.float64),
        torch.cat([randn([1, 8], [7], index=i, dtype=torch.float64) for i in range(2000)]),
    ):
        values = sample.flatten().numpy()
        assert stats.kstest(values, "norm").pvalue > 1e-4
        assert abs(values.mean()) < 5 / np.sqrt(len(values))
        assert abs((values**2).mean() - 1) < 5 * np.sqrt(2 / len(values))


def test_neighbouring_elements_seeds_and_indices_are_uncorrelated():
    rows = randn([400, 401], torch.arange(400), dtype=torch.float64).numpy()
    following = randn([400, 401], torch.arange(400), index=1, dtype=torch.float64).numpy()
    limit = 5 / np.sqrt(rows.size)
    assert abs((rows[:, 1:] * rows[:, :-1]).mean()) < limit
    assert abs((rows[1:] * rows[:-1]).mean()) < limit
    assert abs((rows * following).mean()) < limit


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_a_samples_numbers_do_not_depend_on_the_batch(dtype):
    seeds = [5, 2**33, -1, 5]
    together = randn([4, 3, 7], seeds, index=3, dtype=dtype)
    assert together.dtype == dtype
    assert together.shape == (4, 3, 7)
    for b, seed in enumerate(seeds):
        assert torch.equal(randn([1, 3, 7], [seed], index=3, dtype=dtype)[0], together[b])
    assert torch.equal(together[0], together[3])
    assert not torch.equal(together[0], together[1])


@pytest.mark.parametrize("count", [1, 2, 3, 5, 63, 64, 65, 1023])
def test_odd_sizes_are_the_beginning_of_longer_ones(count):
    whole = randn([2, 1024], [1, 2], dtype=torch.float64)
    assert torch.equal(randn([2, count], [1, 2], dtype=torch.float64), whole[:, :count])


def test_every_index_is_another_noise():
    assert len({randn([1, 1], [9], index=i).item() for i in [*range(50), 2**31, 2**32 - 1]}) == 52


def test_seeds_differ_in_every_one_of_their_64_bits():
    seeds = [0, *(2**k for k in range(63)), -(2**63)]
    assert len(set(randn([65, 1], seeds, dtype=torch.float64).flatten().tolist())) == 65


def test_dtypes_hold_the_same_numbers_rounded():
    exact = randn([2, 500], [1, 2], dtype=torch.float64)
    for dtype, tolerance in ((torch.float32, 2e-6), (torch.float16, 1e-3), (torch.bfloat16, 8e-3)):
        torch.testing.assert_close(randn([2, 500], [1, 2], dtype=dtype).double(), exact, rtol=tolerance, atol=2e-6)


def test_solvers_draw_from_one_upwards_so_the_first_noise_is_index_0():
    for entry in fd.solvers():
        plan = fd.plan(entry.name, fd.Schedule.vp(), 4)
        drawn = {j for row in plan.rows for line in (row.x, row.base) if line is not None for j, _ in line.noise}
        assert 0 not in drawn
        assert bool(drawn) == entry.stochastic


def test_empty_batches_and_empty_samples_are_empty():
    assert randn([0, 3], []).shape == (0, 3)
    assert randn([2, 0], [1, 2]).shape == (2, 0)


@pytest.mark.parametrize(
    ("error", "arguments", "message"),
    [
        (ValueError, ([2, 3], [1]), r"seeds: expected one for each of the 2 samples, got shape \(1,\)"),
        (ValueError, ([2, 3], torch.tensor([[1, 2]])), "seeds: expected one for each"),
        (ValueError, ([2, 3], [1, 2**63]), "seeds: expected numbers of 64 bits"),
        (TypeError, ([2, 3], [[1, 2]]), "seeds: expected whole numbers"),
        (TypeError, ([2, 3], torch.tensor([1.0, 2.0])), "seeds: expected whole numbers, got torch.float32"),
        (TypeError, ([2, 3], [1.0, 2.5]), "seeds: expected whole numbers"),
        (ValueError, ([], []), "shape: expected at least one dimension"),
    ],
)
def test_bad_arguments_are_refused_by_name(error, arguments, message):
    with pytest.raises(error, match=message):
        randn(*arguments)


@pytest.mark.parametrize("index", [-1, 2**32])
def test_index_outside_32_bits_is_refused(index):
    with pytest.raises(ValueError, match="index: expected a whole number"):
        randn([1, 2], [1], index=index)


def test_half_an_integer_dtype_is_refused():
    with pytest.raises(TypeError, match=r"x: expected float32, float64, float16 or bfloat16, got torch\.int64"):
        randn([1, 2], [1], dtype=torch.int64)
