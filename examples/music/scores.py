"""What a musician counts in voices [N, 4, T], beside the same of the corpus."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import one_hot

TRIADS = [{(root + k) % 12 for k in chord} for root in range(12) for chord in ((0, 4, 7), (0, 3, 7), (0, 3, 6))]


def pitch_classes(voices: Tensor) -> Tensor:
    """[12] the share of each."""
    return one_hot(voices % 12, 12).double().flatten(0, -2).mean(0)


def scores(voices: Tensor, corpus: Tensor) -> dict[str, float]:
    """pitch classes: total variation from the corpus'. in triads: chords whose notes lie in one triad. onsets: of a
    voice in a beat. leap: semitones between notes of a voice. crossed: chords in which a voice is above a higher one.
    """
    moves = voices.diff(dim=-1)
    chords = voices.transpose(1, 2).flatten(0, 1).tolist()
    steps = moves[moves != 0].abs().double()
    return {
        "pitch classes": float((pitch_classes(voices) - pitch_classes(corpus)).abs().sum() / 2),
        "in triads": sum(any({p % 12 for p in chord} <= triad for triad in TRIADS) for chord in chords) / len(chords),
        "onsets": 2 * float((moves != 0).double().mean()),
        "leap": float(steps.mean()) if len(steps) else 0.0,
        "crossed": float((voices.diff(dim=1) > 0).any(1).double().mean()),
    }
