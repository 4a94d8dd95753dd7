"""The example of music: what is counted and written is so, and the lower voices are set to the soprano given."""

from __future__ import annotations

import wave
from pathlib import Path

import numpy as np
import pytest
import torch


def cadences() -> torch.Tensor:
    from examples.music.corpus import cadences, windows

    return torch.from_numpy(windows(cadences(4), range(1)))


def test_the_table_has_every_plan_and_everything_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    from examples.music.__main__ import EVALUATIONS, main

    main(["--quick", "--out", str(tmp_path)])
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert len(lines) == 4 + 3 * len(EVALUATIONS)
    assert float(lines[2].split("|")[6]) == 1.0  # the cadences are made of triads
    assert {path.suffix for path in tmp_path.iterdir()} == {".md", ".png", ".mid", ".wav"}


def test_pitches_survive_their_encoding_and_the_soprano_its_voices() -> None:
    from examples.music.__main__ import harmonise, plans
    from examples.music.network import Chorale, decode, encode

    voices = cadences()[:2]
    assert torch.equal(decode(encode(voices)), voices)
    x0 = encode(voices)
    assert x0.square().mean() == pytest.approx(1 - 1 / 46, rel=1e-5)
    model = Chorale(16, (1,)).eval()
    set_to = harmonise(model, plans(4)["default"], voices, torch.randn_like(x0))
    assert torch.equal(set_to[:, 0], voices[:, 0])
    assert set_to.shape == voices.shape


def test_a_musician_s_counts() -> None:
    from examples.music.scores import scores

    voices = cadences()
    found = scores(voices, voices)
    assert found["pitch classes"] == 0
    assert (found["in triads"], found["crossed"]) == (1, 0)
    assert scores(voices.flip(1), voices)["crossed"] == 1
    held = voices[:, :, :1].expand_as(voices)
    assert (scores(held, voices)["onsets"], scores(held, voices)["leap"]) == (0, 0)


def test_midi_and_sound_last_as_long_as_the_notes(tmp_path: Path) -> None:
    from examples.music.sound import EIGHTH, RATE, TICKS, _variable, notes, write_midi, write_wave

    voices = cadences()[0].numpy()
    assert [_variable(n) for n in (0, 127, 128, 480)] == [b"\x00", b"\x7f", b"\x81\x00", b"\x83\x60"]
    line = notes(np.array([60, 60, 62, 60]))
    assert line == [(60, 0, 2), (62, 2, 1), (60, 3, 1)]
    write_midi(tmp_path / "a.mid", voices)
    midi = (tmp_path / "a.mid").read_bytes()
    assert midi[:14] == b"MThd\x00\x00\x00\x06\x00\x01\x00\x04" + TICKS.to_bytes(2, "big")
    assert midi.count(b"MTrk") == 4
    write_wave(tmp_path / "a.wav", voices)
    with wave.open(str(tmp_path / "a.wav")) as file:
        assert file.getnframes() >= voices.shape[1] * EIGHTH * RATE
