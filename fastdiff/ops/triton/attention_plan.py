"""How a Triton attention is cut into programs: one table for each architecture, no tuning at the first call.

The queries of a head are divided until there are PER_MULTIPROCESSOR programs for each multiprocessor: fewer leave the
matrix units idle while weights are computed, and the last ones to finish leave most of the machine idle. Keys are not
divided: every real shape of more than 256 keys has 128 programs or more, and for fewer keys a second launch to join
the parts would cost more than it saves.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

from torch import Tensor

from .group_norm_plan import Device, device_of

MIN_TILE = 16  # rows, columns and keys of a matrix instruction
PER_MULTIPROCESSOR = 3


class Tile(NamedTuple):
    """How much of an attention a program takes at once, on one architecture."""

    rows: int  # queries
    fewest: int  # queries, where there are too few for the machine; wgmma and tcgen05 take no fewer than 64
    keys: int
    warps: int
    stages: int
    resident: int  # keys up to which all of them stay on chip
    tail: bool  # whether a last tile of fewer keys has code of its own: registers must suffice


class Plan(NamedTuple):
    """The launch of one call."""

    programs: int
    walks: int  # programs of one head
    share: int  # tiles of queries that each takes
    warps: int
    constants: dict[str, int]  # compile-time arguments


# By element size and by the largest head size that a tile is meant for.
_HALF_90 = {
    80: Tile(128, 64, 64, 4, 3, 128, True),
    128: Tile(128, 64, 128, 8, 2, 128, True),
    160: Tile(128, 64, 64, 8, 2, 128, True),
    256: Tile(128, 64, 32, 8, 2, 0, False),
}
_HALF_80 = {
    64: Tile(128, 32, 64, 4, 3, 80, True),
    80: Tile(64, 32, 64, 4, 2, 128, True),
    128: Tile(128, 32, 64, 8, 2, 0, False),
    160: Tile(64, 64, 32, 4, 2, 0, False),
    256: Tile(64, 64, 16, 4, 2, 0, False),
}
_HALF_942 = {
    80: Tile(128, 32, 64, 8, 2, 128, True),
    256: Tile(128, 64, 32, 8, 1, 0, False),
}
_FLOAT = {
    80: Tile(64, 32, 32, 8, 1, 0, False),
    128: Tile(32, 32, 32, 8, 1, 0, False),
    256: Tile(32, 32, 16, 8, 1, 0, False),
}
TILES = {
    "sm_80": {2: _HALF_80, 4: _FLOAT},
    "sm_90": {2: _HALF_90, 4: _FLOAT},
    "sm_100": {2: _HALF_90, 4: _FLOAT},
    "gfx942": {2: _HALF_942, 4: _FLOAT},
}


def plan_of(q: Tensor, keys: int) -> Plan:
    """The plan for q [B, H, N, D], not empty, and `keys` keys."""
    return _plan(tuple(q.shape), keys, q.element_size(), device_of(q))


def parts_of(size: int) -> tuple[int, int]:
    """A power of two, or two, whose sum is the least that holds the head size."""
    whole = _at_least(MIN_TILE, size)
    first = whole // 2
    second = _at_least(MIN_TILE, size - first)
    return (first, second) if first >= MIN_TILE and first + second < whole else (whole, 0)


@functools.lru_cache(maxsize=4096)
def _plan(shape: tuple[int, ...], keys: int, itemsize: int, device: Device) -> Plan:
    heads, queries, size = shape[0] * shape[1], *shape[2:]
    tile = _tile(TILES[device.arch][itemsize], size)
    rows, enough = tile.rows, PER_MULTIPROCESSOR * device.multiprocessors
    while rows > tile.fewest and (rows >= 2 * queries or heads * _ceil(queries, rows) < enough):
        rows //= 2
    resident = keys <= tile.resident
    share = _ceil(heads * _ceil(queries, rows), enough) if resident else 1
    walks = _ceil(_ceil(queries, rows), share)
    warps = min(tile.warps, rows // MIN_TILE) if itemsize == 2 else tile.warps  # a matrix instruction's rows
    first, second = parts_of(size)
    constants = {
        "SIZE": size, "FIRST": first, "SECOND": second, "ROWS": rows, "WHOLE_ROWS": queries % rows == 0,
        "RESIDENT": resident, "STAGES": tile.stages, **_keys(tile, rows, keys),
    }  # fmt: skip
    return Plan(heads * walks, walks, share, warps * 32 // device.warp, constants)


def _tile(tiles: dict[int, Tile], size: int) -> Tile:
    return next(tile for largest, tile in tiles.items() if size <= largest)


def _keys(tile: Tile, rows: int, keys: int) -> dict[str, int]:
    """Tiles of KEYS and, unless TAIL is 0, a last one of its own size; which of them are full."""
    if keys <= tile.resident:
        block, tail = parts_of(keys)
        rest = keys - block
    else:
        block = min(tile.keys, rows)  # few queries at a time leave few registers to a thread
        rest = keys % block
        tail = _at_least(MIN_TILE, rest) if tile.tail else 0
    return {"KEYS": block, "TAIL": tail, "WHOLE_KEYS": rest == 0 or tail > 0, "WHOLE_TAIL": rest == tail}


def _ceil(n: int, divisor: int) -> int:
    return -(-n // divisor)


def _at_least(smallest: int, n: int) -> int:
    """The least power of two that is not less than n, nor than `smallest`; 0 for none."""
    return max(smallest, 1 << (n - 1).bit_length()) if n else 0
