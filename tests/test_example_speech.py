"""The example of speech: its table, its files, and that a spectrogram's sound has that spectrogram."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

pytest.importorskip("scipy")
pytest.importorskip("matplotlib")


def test_the_table_has_both_samplers_and_everything_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from examples.speech import EVALUATIONS, main

    main(["--quick", "--out", str(tmp_path)])
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert len(lines) == 4 + 2 * len(EVALUATIONS)
    assert len(list(tmp_path.glob("*.wav"))) == 5
    assert (tmp_path / "speech.png").exists()


def test_a_spectrogram_turned_into_sound_is_that_sounds_spectrogram() -> None:
    from examples.speech import decibels, made_up, sound, spectrogram

    (wave,) = made_up(0.5)
    mel = spectrogram(wave)
    again = spectrogram(sound(mel, 20) * wave.abs().max())
    n = min(mel.shape[1], again.shape[1])
    silence = torch.full_like(mel, float(mel.mean()))
    assert decibels(again[None, :, :n], mel[None, :, :n]) < decibels(silence[None], mel[None]) / 2
