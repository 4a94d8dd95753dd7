"""A whole run as one CUDA graph: model and solver steps are captured once and replayed without work on the host.

With the compiled CUDA kernel the steps read a table on the device (`ops.step_table`), so one graph runs every plan with
the same number of rows. Otherwise (Triton, or dynamic thresholding) the coefficients are captured with the steps, and
another plan needs another capture.
"""

from __future__ import annotations

from .captured import Captured, capture
from .cuda_graph import CaptureError

__all__ = ["CaptureError", "Captured", "capture"]
