"""Point sets in space, such as molecules and proteins: noise without a centre, random frames, rigid alignment.

Shapes are [B, N, d], B sets of N points in d dimensions, mostly 3. A mask [B, N] or [N] is 1 at points, 0 at padding.
"""

from .centre import centre, centred_noise
from .equivariant import Equivariant, equivariant
from .rigid import align, random_rotations

__all__ = ["Equivariant", "align", "centre", "centred_noise", "equivariant", "random_rotations"]
