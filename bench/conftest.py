"""Fixtures that benchmarks share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture
def threads() -> Iterator[None]:
    """For benchmarks that change torch's number of threads, or compile."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)
    torch.compiler.reset()
