"""The noise of `fastdiff.ops.philox` as a Triton device function: every Philox call gives four consecutive elements."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _cos_sin(word, DTYPE: tl.constexpr):
    """cos and sin of 2 pi word 2^-32.

    The whole number is split exactly into quarter turns and a rest of at most an eighth of a turn, so that short Taylor
    series are accurate and no argument reduction, which would need stack memory, is left.
    """
    # Terms after which the series' rest at pi / 4, an eighth of a turn, is below rounding.
    TERMS: tl.constexpr = 9 if tl.float64 == DTYPE else 5
    signed = word.to(tl.int32, bitcast=True)
    # Half a quarter turn is added to round to the nearest one; the sum wraps as the angle does.
    quarter = ((word + 0x20000000) >> 30) & 3
    rest = signed - (quarter << 30).to(tl.int32, bitcast=True)
    angle = rest.to(DTYPE) * 1.4629180792671596e-09  # 2 pi 2^-32
    square = angle * angle
    cos = square * 0 + 1
    sin = cos
    # Horner's scheme from the last term: cos = 1 - z/2 (1 - z/12 (...)), sin = angle (1 - z/6 (1 - z/20 (...))).
    for k in tl.static_range(2 * TERMS, 0, -2):
        cos = 1 - square * cos * (1.0 / (k * (k - 1)))
        sin = 1 - square * sin * (1.0 / (k * (k + 1)))
    sin = sin * angle
    # Turn by the quarters: an odd one swaps cos and sin, two change both signs.
    odd = (quarter & 1) != 0
    turned_cos = tl.where(odd, -sin, cos)
    turned_sin = tl.where(odd, cos, sin)
    half = quarter >= 2
    return tl.where(half, -turned_cos, turned_cos), tl.where(half, -turned_sin, turned_sin)


@triton.jit
def _box_muller(r, s, DTYPE: tl.constexpr):
    # Rounded to float32 in every precision (see `fastdiff.ops.philox`). The 2^-33 keeps u above 0 and its log finite.
    u = (r.to(tl.float32) * 2.3283064365386963e-10 + 1.1641532182693481e-10).to(DTYPE)  # 2^-32 and 2^-33
    radius = tl.sqrt(-2.0 * tl.log(u))
    cos, sin = _cos_sin(s, DTYPE)
    return radius * cos, radius * sin


@triton.jit
def normal(seed, index, start, COUNT: tl.constexpr, DTYPE: tl.constexpr):
    """Normals for the elements start .. start + COUNT - 1 of one sample; 4 divides start and COUNT."""
    block = start // 4 + tl.arange(0, COUNT // 4)
    low = block.to(tl.uint32)
    high = (block.to(tl.int64) >> 32).to(tl.uint32)
    r0, r1, r2, r3 = tl.philox(seed, low, high, low * 0 + index.to(tl.uint32), low * 0)
    z0, z1 = _box_muller(r0, r1, DTYPE)
    z2, z3 = _box_muller(r2, r3, DTYPE)
    # Back to the order of elements: 4 block, 4 block + 1, ... from z0, z1, z2, z3 of each block.
    return tl.interleave(tl.interleave(z0, z2), tl.interleave(z1, z3))
