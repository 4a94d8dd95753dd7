"""What a run parallel in time took."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class InTime:
    """What `fastdiff.sample_in_time` did.

    rounds: how often the states were made anew. calls: of the model, one after the other; the run row after row makes
    one a row, two where guidance makes two. evaluations: of the network, all samples together. largest_call: the most
    samples of a call, guidance's copies included. residuals: of each round the largest that was found too large, 0
    where none was. converged: whether all samples are within the tolerance.
    """

    rounds: int
    calls: int
    evaluations: int
    largest_call: int
    residuals: tuple[float, ...]
    converged: bool
