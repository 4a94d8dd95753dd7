"""dynamic_threshold on samples of any shape, and on those without elements."""

from __future__ import annotations

import pytest
import torch

from fastdiff.ops.definitions.threshold import dynamic_threshold


@pytest.mark.parametrize("shape", [(3,), (3, 7), (3, 2, 5, 4)], ids=str)
def test_is_the_quantile_of_each_sample(shape: tuple[int, ...]) -> None:
    x0 = 3 * torch.randn(shape)
    right = x0.reshape(3, -1).abs().double().quantile(0.9, dim=1).clamp(1, 2)
    torch.testing.assert_close(dynamic_threshold(x0, ratio=0.9, limit=2.0), right, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("shape", [(0,), (0, 4), (2, 0), (2, 3, 0)], ids=str)
def test_samples_without_elements_are_divided_by_one(shape: tuple[int, ...]) -> None:
    assert torch.equal(dynamic_threshold(torch.empty(shape)), torch.ones(shape[0], dtype=torch.float64))
