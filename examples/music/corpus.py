"""Chorales as voices [windows, 4, STEPS] of MIDI pitches, one for each eighth note, soprano first."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np

STEPS = 32  # eighth notes in a window: four bars of four beats
LOW, HIGH = 36, 82  # of all four voices, the upper end excluded
PITCHES = HIGH - LOW


def chorales(count: int) -> list[np.ndarray]:
    """Bach's, from music21's corpus, each [4, eighths]; those that are not four plain voices are left out."""
    from music21 import corpus

    found = (voices_of(corpus.parse(name)) for name in corpus.chorales.Iterator(returnType="filename"))
    return list(itertools.islice((voices for voices in found if voices is not None), count))


def voices_of(score: object) -> np.ndarray | None:
    """[4, eighths] the pitch that sounds at each eighth; a rest goes on with the note before it."""
    if len(score.parts) != 4:
        return None
    lines = []
    for part in score.parts:
        notes = [note for note in part.flatten().notes if note.isNote]
        line = np.zeros(int(2 * score.highestTime), dtype=int)
        for note in notes:
            line[int(np.ceil(2 * note.offset)) :] = note.pitch.midi
        if not notes:
            return None
        line[line == 0] = notes[0].pitch.midi
        lines.append(line)
    voices = np.stack(lines)
    return voices if voices.shape[1] >= STEPS and LOW <= voices.min() <= voices.max() < HIGH else None


def cadences(count: int, seed: int = 0) -> list[np.ndarray]:
    """Chords of I, IV, V and vi in a major key, in close position: made up, for where music21 is not."""
    random = np.random.default_rng(seed)
    chords = np.array([[72, 67, 64, 48], [72, 69, 65, 53], [71, 67, 62, 43], [72, 69, 64, 45]])

    def piece() -> np.ndarray:
        return np.repeat(chords[random.integers(0, 4, STEPS)], 2, axis=0).T + random.integers(-3, 4)

    return [piece() for _ in range(count)]


def windows(pieces: list[np.ndarray], shifts: range = range(-3, 4)) -> np.ndarray:
    """[windows, 4, STEPS] at each bar, in each key of `shifts` semitones that all voices can sing."""
    return np.stack(list(_windows(pieces, shifts)))


def _windows(pieces: list[np.ndarray], shifts: range) -> Iterator[np.ndarray]:
    for piece, shift in itertools.product(pieces, shifts):
        moved = piece + shift
        if moved.min() >= LOW and moved.max() < HIGH:
            yield from (moved[:, i : i + STEPS] for i in range(0, moved.shape[1] - STEPS + 1, 8))
