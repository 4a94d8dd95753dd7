"""A whole run as one CUDA graph: the model and the solver's steps, captured once, replayed with no work on the host.

Where the compiled CUDA kernel serves the call, the steps are read from a table on the device (`ops.step_table`), so a
captured graph runs any plan of as many rows. Elsewhere (Triton, or dynamic thresholding) each step is captured with its
numbers in it, and another plan needs another capture.
"""

from __future__ import annotations

from .captured import Captured, capture
from .cuda_graph import CaptureError

__all__ = ["CaptureError", "Captured", "capture"]
