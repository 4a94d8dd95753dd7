"""How a Triton group_norm is cut into programs: one table for each architecture, no tuning at the first call.

Memory is walked as rows of columns. Contiguous: the slab of one (sample, group), each row as many elements of one
channel as an access takes. channels_last: each row is a pixel, its columns the channels of so many groups together
that every row starts aligned.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

MAX_UNIT = 8  # elements a thread moves at once
MAX_SPLITS = 128
MAX_COLUMNS = 4096  # channels of one group in channels_last


class Device(NamedTuple):
    """What the plans depend on. warp: threads that run in step."""

    arch: str
    multiprocessors: int
    warp: int


class Config(NamedTuple):
    """How work is cut on one architecture."""

    on_chip: int  # elements one program can hold in registers
    tile: int  # elements one program takes at once where it cannot hold all
    threads: int  # of a program that works on such a tile
    columns: int  # channels_last: columns wanted in a row
    redundant: int  # bytes that may be read again from the cache to save a second launch
    waves: int  # programs a multiprocessor, over two launches


CONFIGS = {
    "sm_80": Config(16384, 8192, 512, 64, 12 << 20, 6),
    "sm_90": Config(16384, 8192, 512, 64, 32 << 20, 8),
    "sm_100": Config(16384, 8192, 512, 64, 32 << 20, 8),
    "gfx942": Config(16384, 8192, 512, 64, 16 << 20, 6),
}
ABSENT = Device("sm_90", 132, 32)  # for tensors on no device: the interpreter, tests that only compile


class Plan(NamedTuple):
    """The launches of one call and what each is given."""

    programs: int
    splits: int  # programs that share the rows of one slab
    share: int  # rows of each
    rows: int
    units: int  # rows of a channel; 1 in channels_last
    blocks: int  # slabs of a sample
    group_channels: int
    warps: int
    twice: bool  # statistics and output in launches of their own
    constants: dict[str, int]  # compile-time arguments


def plan_of(x: Tensor, groups: int, last: bool) -> Plan:
    """The plan for x [B, C, ...], not empty, dense in the layout that `last` tells."""
    return _plan(tuple(x.shape), groups, last, x.element_size(), device_of(x))


def device_of(x: Tensor) -> Device:
    """x's device."""
    return _device(x.device.index) if x.is_cuda else ABSENT


@functools.cache
def _device(index: int) -> Device:
    properties = torch.cuda.get_device_properties(index)
    if torch.version.hip:
        return Device("gfx942", properties.multi_processor_count, properties.warp_size)
    known = [arch for arch in (100, 90, 80) if arch <= 10 * properties.major + properties.minor]
    return Device(f"sm_{known[0] if known else 80}", properties.multi_processor_count, properties.warp_size)


@functools.lru_cache(maxsize=4096)
def _plan(shape: tuple[int, ...], groups: int, last: bool, itemsize: int, device: Device) -> Plan:
    config = CONFIGS[device.arch]
    batch, channels, positions = shape[0], shape[1], math.prod(shape[2:])
    group_channels = channels // groups
    if not last:
        width = math.gcd(positions, MAX_UNIT)
        rows, units, columns = group_channels * positions // width, positions // width, width
        return _cut(config, device, batch, groups, rows, units, columns, width, 1, group_channels, False, itemsize)
    aligned = 16 // itemsize
    together = _together(groups, group_channels, lambda width: width % aligned == 0)
    if _power(positions) * _power(together * group_channels) > config.on_chip:
        enough = _together(groups, group_channels, lambda width: width % aligned == 0 and width >= config.columns)
        wide = enough * group_channels <= 4 * config.columns
        together = enough if wide and enough * group_channels % aligned == 0 else together
    return _cut(config, device, batch, groups, positions, 1, together * group_channels, channels, together,
                group_channels, True, itemsize)  # fmt: skip


def _together(groups: int, group_channels: int, good: Callable[[int], bool]) -> int:
    """The fewest groups whose channels make a good row, or 1."""
    divisors = (n for n in range(1, groups + 1) if groups % n == 0)
    return next((n for n in divisors if good(n * group_channels)), 1)


def _cut(
    config: Config, device: Device, batch: int, groups: int, rows: int, units: int, live: int, stride: int,
    together: int, group_channels: int, last: bool, itemsize: int,
) -> Plan:  # fmt: skip
    columns = _power(live)
    blocks = groups // together
    slabs = batch * blocks
    constants = {
        "LAST": last, "STRIDE": stride, "LIVE": live, "COLUMNS": columns, "TOGETHER": together,
        "WIDE": rows * stride >= 2**31 - 2**20,
    }  # fmt: skip
    if _power(rows) * columns <= config.on_chip:
        tile = _power(rows)
        warps = min(max(tile * columns // (32 * device.warp), 1), config.threads // device.warp)
        return Plan(slabs, 1, rows, rows, units, blocks, group_channels, warps, False,
                    {**constants, "ROWS": tile, "WHOLE": True, "SPLITS": 1})  # fmt: skip
    tile = max(config.tile // columns, 1)
    tiles = -(-rows // tile)
    splits = min(max(device.multiprocessors // slabs, 1), tiles, MAX_SPLITS)
    twice = (splits - 1) * slabs * rows * live * itemsize > config.redundant
    if twice:
        splits = min(-(-config.waves * device.multiprocessors // slabs), tiles, MAX_SPLITS)
    share = -(-tiles // splits)
    splits = -(-tiles // share)
    return Plan(slabs * splits, splits, share * tile, rows, units, blocks, group_channels,
                config.threads // device.warp, twice,
                {**constants, "ROWS": tile, "WHOLE": False, "SPLITS": _power(splits) if twice else 1})  # fmt: skip


def _power(n: int) -> int:
    """The least power of two that is not less than n."""
    return 1 << (n - 1).bit_length()
