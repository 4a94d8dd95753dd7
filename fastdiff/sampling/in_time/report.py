"""What a run parallel in time took."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class InTime:
    """What `fastdiff.sample_in_time` did.

    rounds: how often all states were made anew. calls: calls of the model, one after the other; the run row after row
    makes one a row, two where guidance makes two. evaluations: how often the network was evaluated, of all samples
    together. largest_call: the most samples of a call, guidance's copies included. residuals: for each round the
    largest residual that ended a sample's round, 0 where none did. converged: whether all samples did.
    """

    rounds: int
    calls: int
    evaluations: int
    largest_call: int
    residuals: tuple[float, ...]
    converged: bool
