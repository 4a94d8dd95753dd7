"""A wrong kernel is not timed."""

from __future__ import annotations

from torch import Tensor


def check_close(found: Tensor, expected: Tensor, tolerance: float) -> None:
    """Raises AssertionError unless max |found - expected| <= tolerance max |expected|; NaN never passes."""
    error, size = (found - expected).abs().max().item(), expected.abs().max().item()
    assert error <= tolerance * size, f"wrong by {error:.2e} where values go up to {size:.2e}"
