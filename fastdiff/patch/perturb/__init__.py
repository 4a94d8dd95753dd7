"""The same network, perturbed: calls for `fastdiff.guidance.Terms`, which steers away from what they predict."""

from .blocks import dropped_blocks, dropped_features, shuffled_tokens, skipped_blocks
from .perturbed import Perturbed
from .self_attention import blurred_queries, identity_attention

__all__ = [
    "Perturbed",
    "blurred_queries",
    "dropped_blocks",
    "dropped_features",
    "identity_attention",
    "shuffled_tokens",
    "skipped_blocks",
]
