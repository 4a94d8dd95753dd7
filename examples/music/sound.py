"""Voices [4, T] as a MIDI file and as sound."""

from __future__ import annotations

import struct
import wave
from itertools import groupby
from pathlib import Path

import numpy as np

RATE = 22050
EIGHTH = 0.3  # seconds
TICKS = 480  # in a quarter note


def notes(line: np.ndarray) -> list[tuple[int, int, int]]:
    """(pitch, begin, length) in eighths; equal neighbours are one note."""
    found, begin = [], 0
    for pitch, group in groupby(line.tolist()):
        length = len(list(group))
        found.append((pitch, begin, length))
        begin += length
    return found


def write_midi(path: Path, voices: np.ndarray) -> None:
    """A track for each voice, at 100 quarters a minute."""
    tracks = [_track(k, notes(line)) for k, line in enumerate(voices)]
    path.write_bytes(b"MThd" + struct.pack(">IHHH", 6, 1, len(tracks), TICKS) + b"".join(tracks))


def _track(channel: int, line: list[tuple[int, int, int]]) -> bytes:
    events = b"\x00\xff\x51\x03" + int(2e6 * EIGHTH).to_bytes(3, "big")
    for pitch, _, length in line:
        events += bytes([0, 0x90 + channel, pitch, 80])
        events += _variable(length * TICKS // 2) + bytes([0x80 + channel, pitch, 0])
    events += b"\x00\xff\x2f\x00"
    return b"MTrk" + struct.pack(">I", len(events)) + events


def _variable(ticks: int) -> bytes:
    """MIDI's variable length: seven bits a byte, the last one without the top bit."""
    parts = [ticks & 0x7F]
    while ticks := ticks >> 7:
        parts.append(0x80 | ticks & 0x7F)
    return bytes(reversed(parts))


def write_wave(path: Path, voices: np.ndarray) -> None:
    """Each note is five harmonics that die away, with soft ends."""
    total = np.zeros(int((voices.shape[1] * EIGHTH + 1) * RATE))
    for line in voices:
        for pitch, begin, length in notes(line):
            t = np.arange(int((length * EIGHTH + 0.3) * RATE)) / RATE
            frequency = 440 * 2 ** ((pitch - 69) / 12)
            tone = sum(np.sin(2 * np.pi * k * frequency * t) / k**1.5 for k in range(1, 6))
            envelope = np.minimum(t / 0.02, 1) * np.exp(-1.5 * t) * np.clip((t[-1] - t) / 0.3, 0, 1)
            at = int(begin * EIGHTH * RATE)
            total[at : at + len(t)] += tone * envelope
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, RATE, 0, "NONE", "not compressed"))
        file.writeframes((total / np.abs(total).max() * 30000).astype("<i2").tobytes())
