"""How a Triton attention is cut into programs: one table for each architecture, no tuning at the first call.

Keys are not divided among programs: of the real shapes with many keys, each has heads and queries enough for a
machine's multiprocessors.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

from torch import Tensor

from .triton_group_norm_plan import Device, device_of

SMALLEST = 16  # rows, columns and keys of a matrix instruction
RESIDENT_KEYS = 128


class Tile(NamedTuple):
    rows: int
    keys: int
    warps: int
    stages: int


class Plan(NamedTuple):
    """The launch of one call."""

    programs: int
    walks: int  # programs of one head
    share: int  # tiles of queries that each takes
    warps: int
    constants: dict  # compile-time arguments


# Tiles by the largest head size they are meant for, in 16 and in 32 bits.
_HALF_90 = {64: Tile(128, 128, 8, 2), 80: Tile(128, 64, 8, 2), 128: Tile(128, 64, 8, 2), 256: Tile(128, 32, 8, 2)}
_HALF_80 = {64: Tile(128, 64, 4, 2), 80: Tile(128, 32, 4, 2), 128: Tile(128, 32, 8, 2), 256: Tile(64, 32, 4, 2)}
_FLOAT = {64: Tile(64, 32, 8, 1), 128: Tile(32, 32, 8, 1), 256: Tile(32, 16, 8, 1)}
TILES = {
    "sm_80": {2: _HALF_80, 4: _FLOAT},
    "sm_90": {2: _HALF_90, 4: _FLOAT},
    "sm_100": {2: _HALF_90, 4: _FLOAT},
    "gfx942": {2: _HALF_80, 4: _FLOAT},
}


def plan_of(q: Tensor, keys: int) -> Plan:
    """The plan for q [B, H, N, D], not empty, and `keys` keys."""
    return _plan(tuple(q.shape), keys, q.element_size(), device_of(q))


def parts_of(size: int) -> tuple[int, int]:
    """A power of two, or two, whose sum is the least that holds the head size."""
    whole = _at_least(SMALLEST, size)
    first = whole // 2
    second = _at_least(SMALLEST, size - first)
    return (first, second) if SMALLEST <= first and first + second < whole else (whole, 0)


@functools.lru_cache(maxsize=4096)
def _plan(shape: tuple[int, ...], keys: int, itemsize: int, device: Device) -> Plan:
    batch, heads, queries, size = shape
    first, second = parts_of(size)
    tiles = TILES[device.arch][itemsize]
    tile = next(tile for largest, tile in tiles.items() if size <= largest)
    rows, warps = tile.rows, tile.warps
    while rows > SMALLEST and (rows >= 2 * queries or batch * heads * -(-queries // rows) < device.multiprocessors):
        rows, warps = rows // 2, max(warps // 2, 1)
    resident = keys <= RESIDENT_KEYS and itemsize == 2
    block, tail = parts_of(keys) if resident else (tile.keys, _at_least(SMALLEST, keys % tile.keys))
    count = -(-queries // rows)
    share = max(batch * heads * count // (2 * device.multiprocessors), 1) if resident else 1
    walks = -(-count // share)
    constants = {
        "SIZE": size, "FIRST": first, "SECOND": second, "VALUE_SECOND": second, "ROWS": rows, "KEYS": block,
        "TAIL": tail, "RESIDENT": resident, "WHOLE_ROWS": queries % rows == 0, "WHOLE_KEYS": keys >= block,
        "WHOLE_TAIL": (keys - block if resident else keys % block) == tail, "STAGES": tile.stages,
    }  # fmt: skip
    return Plan(batch * heads * walks, walks, share, warps * 32 // device.warp, constants)


def _at_least(smallest: int, n: int) -> int:
    """The least power of two that is not less than n, nor than `smallest`; 0 for none."""
    return max(smallest, 1 << (n - 1).bit_length()) if n else 0
