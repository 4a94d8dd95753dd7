"""torch.nn modules made of the ops."""

from .cross_attention import CrossAttentionCache
from .group_norm import GroupNorm

__all__ = ["CrossAttentionCache", "GroupNorm"]
