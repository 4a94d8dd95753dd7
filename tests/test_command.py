"""What a person who types `fastdiff` gets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fastdiff.__main__ import main


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def fastdiff(*arguments: str) -> int:
    return main(["sample", *arguments])


def test_sample_draws_64_digits_in_8_network_calls(capsys: pytest.CaptureFixture) -> None:
    assert fastdiff() == 0
    line = capsys.readouterr().out.strip()
    assert line.startswith("64 samples, 8 NFE, ")
    assert line.endswith("images/s -> samples.png")
    picture = np.asarray(Image.open("samples.png"))
    assert min(picture.shape) > 500
    assert picture.std() > 50


def test_a_seed_draws_the_same_digit_alone_and_among_others() -> None:
    fastdiff("--seeds", "3-6", "--format", "npy", "--out", "all.npy")
    fastdiff("--seeds", "5", "--format", "npy", "--out", "one.npy")
    np.testing.assert_allclose(np.load("all.npy")[2], np.load("one.npy")[0], atol=1e-4)


def test_each_writes_files_named_by_seed() -> None:
    fastdiff("--seeds", "7,40-41", "--each", "--out", "digits")
    assert sorted(p.name for p in Path("digits").iterdir()) == ["000007.png", "000040.png", "000041.png"]
    fastdiff("--seeds", "7", "--each", "--format", "npy", "--out", "arrays")
    assert np.load("arrays/000007.npy").shape == (1, 8, 8)


def test_the_label_decides_the_digit() -> None:
    for label in ("0", "1"):
        fastdiff("--seeds", "0-7", "--label", label, "--format", "npy", "--out", f"{label}.npy")
    middle = [np.load(f"{label}.npy")[:, 0, 2:6, 3:5].mean() for label in ("0", "1")]
    assert middle[0] < -0.5 < 0 < middle[1]  # a nought is dark in the middle, a one is bright


def test_guidance_changes_the_samples() -> None:
    fastdiff("--seeds", "0-3", "--format", "npy", "--out", "plain.npy")
    fastdiff("--seeds", "0-3", "--guidance", "3", "--format", "npy", "--out", "guided.npy")
    assert np.abs(np.load("plain.npy") - np.load("guided.npy")).max() > 0.05


def test_trajectory_is_a_strip_from_noise_to_the_result() -> None:
    fastdiff("--seeds", "0-1", "--steps", "4", "--trajectory", "strip.png")
    height, width = np.asarray(Image.open("strip.png")).shape
    assert width > 2 * height


def test_compare_shows_the_distance_from_the_converged_solution(capsys: pytest.CaptureFixture) -> None:
    assert fastdiff("--seeds", "0-7", "--compare", "ddim:50", "dpmpp_2m:8", "ddim:8:time") == 0
    rows = {line.split()[0]: line.split() for line in capsys.readouterr().out.splitlines()}
    assert [rows[name][1] for name in ("ddim:50", "dpmpp_2m:8", "ddim:8:time")] == ["50", "8", "8"]
    assert float(rows["ddim:50"][3]) < float(rows["dpmpp_2m:8"][3]) < float(rows["ddim:8:time"][3])
    assert Path("compare.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--solver", "dpmp_2m"), "dpmpp_2m"),
        (("--steps", "0"), "steps: expected a whole number >= 1"),
        (("--grid", "kerras"), "karras"),
        (("--compare", "ddim"), "SOLVER:STEPS"),
    ],
)
def test_bad_arguments_get_one_line_and_leave_no_file(
    arguments: tuple[str, ...], words: str, capsys: pytest.CaptureFixture
) -> None:
    assert fastdiff(*arguments) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize("arguments", [("--seeds", "a-b"), ("--seeds", "9-3"), ("--label", "10"), ("--format", "jpg")])
def test_unreadable_arguments_are_refused_by_the_parser(arguments: tuple[str, ...]) -> None:
    with pytest.raises(SystemExit):
        fastdiff(*arguments)


def test_an_interrupted_write_leaves_no_partial_file(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Image.Image, "save", broken)
    with pytest.raises(KeyboardInterrupt):
        fastdiff("--seeds", "0")
    assert list(Path().iterdir()) == []


def test_info_names_every_op_and_backend_with_a_reason(capsys: pytest.CaptureFixture) -> None:
    assert main(["info"]) == 0
    text = capsys.readouterr().out
    assert f"torch       {torch.__version__}" in text
    table = text.split("\n\n")[1].splitlines()
    assert len(table) == 3 * 5
    assert all(" yes" in line or " no: " in line for line in table)
    assert "solver_step reference  yes" in table


def test_bench_prints_both_tables(capsys: pytest.CaptureFixture) -> None:
    assert main(["bench", "--seconds", "0.01"]) == 0
    text = capsys.readouterr().out
    assert "one DPM-Solver++(2M) step" in text
    assert "dpmpp_2m:8" in text
