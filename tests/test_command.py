"""What a person who types `fastdiff` gets."""

from __future__ import annotations

import argparse
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from fastdiff import Plan, Trace, __version__, demo
from fastdiff.__main__ import main
from fastdiff.commands import compare, fit, sample
from fastdiff.commands.sample import seed_list
from fastdiff.files import write


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


def test_trace_is_the_first_eight_digits_as_a_page_or_a_file() -> None:
    pytest.importorskip("plotly")
    drawn = ("--seeds", "3-12", "--steps", "4", "--guidance", "2", "--out", "x.npy")
    assert fastdiff(*drawn, "--trace", "run.html") == 0
    assert "Digits by" in Path("run.html").read_text()
    assert fastdiff(*drawn, "--trace", "run.safetensors") == 0
    trace = Trace.load("run.safetensors")
    np.testing.assert_allclose(trace.result, np.load("x.npy")[:8], atol=1e-4)
    assert trace.output_names == ("c", "u")


def test_a_page_without_plotly_is_refused_before_the_work(
    no_work: None, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "plotly.offline", None)
    assert fastdiff("--trace", "run.html") == 2
    assert "--trace: the page of a trace needs plotly: pip install 'fastdiff[trace]'" in capsys.readouterr().err


def test_trajectory_is_a_strip_from_noise_to_the_result() -> None:
    fastdiff("--seeds", "0-1", "--steps", "4", "--trajectory", "strip.png")
    height, width = np.asarray(Image.open("strip.png")).shape
    assert width > 2 * height


def test_shards_fill_a_folder_and_the_same_command_goes_on(capsys: pytest.CaptureFixture) -> None:
    command = ("--seeds", "3-9", "--shards", "png", "--out", "digits", "--shard-size", "4", "--micro-batch", "4")
    assert fastdiff(*command) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "7 samples in 3 shards, of which 0 are there"
    assert lines[1].startswith("7 samples, 8 NFE, ")
    assert lines[1].endswith("s -> digits")
    names = sorted(path.name for path in Path("digits").glob("shard-*/*"))
    assert names == [f"{seed:09d}.png" for seed in range(3, 10)]
    assert fastdiff(*command) == 0
    assert capsys.readouterr().out.startswith("7 samples in 3 shards, of which 3 are there\n")
    assert fastdiff(*command, "--guidance", "2") == 2
    assert capsys.readouterr().err.startswith("fastdiff sample: options.guidance: the job of digits/manifest.json was")


@pytest.mark.slow
def test_compare_shows_the_distance_from_the_converged_solution(
    capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compare, "CONVERGED_STEPS", 100)  # whose error is a thousandth of these
    assert fastdiff("--seeds", "0-7", "--compare", "ddim:50", "dpmpp_2m:8", "ddim:8:time") == 0
    rows = {line.split()[0]: line.split() for line in capsys.readouterr().out.splitlines()}
    assert [rows[name][1] for name in ("ddim:50", "dpmpp_2m:8", "ddim:8:time")] == ["50", "8", "8"]
    assert float(rows["ddim:50"][3]) < float(rows["dpmpp_2m:8"][3]) < float(rows["ddim:8:time"][3])
    assert Path("compare.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--solver", "dpmp_2m"), "dpmpp_2m"),
        (("--grid", "kerras"), "karras"),
        (("--compare", "ddim"), "--compare: expected SOLVER:STEPS"),
        (("--compare", "ddim:0"), "--compare: expected SOLVER:STEPS"),
        (("--compare", "ddim:8", "ddum:8"), "--compare ddum:8: "),
        (("--plan", "none.json"), "none.json"),
        (("--trajectory", "samples.png"), "--trajectory: expected another file than --out's"),
        (("--out", "-", "--each"), "--out: expected a folder, got - (standard output)"),
        (("--out", "-", "--trajectory", "-"), "--trajectory: expected another file than --out's"),
        (("--out", "x.html", "--trace", "x.html"), "--trace: expected another file than --out's"),
        (("--trace", "run.png"), "--trace: expected a name that ends in .html or .safetensors"),
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


UNREADABLE = {
    ("sample", "--seeds"): ["a-b", "9-3", "", "3,", "0-9999999999999", "9223372036854775808"],
    ("sample", "--label"): ["10", "-1", "x"],
    ("sample", "--format"): ["jpg"],
    ("sample", "--shards"): ["jpg"],
    ("sample", "--shard-size"): ["0", "x"],
    ("sample", "--micro-batch"): ["0"],
    ("sample", "--batch"): ["0"],
    ("sample", "--steps"): ["0", "-3", "2.5", "x"],
    ("sample", "--guidance"): ["nan", "inf", "x"],
    ("fit", "--steps"): ["0", "x"],
    ("fit", "--samples"): ["0", "3", "x"],
    ("fit", "--iterations"): ["0"],
    ("fit", "--method"): ["fast"],
    ("fit", "--seed"): ["-1"],
    ("fit", "--guidance"): ["nan"],
    ("fit", "--seconds"): ["0", "-1", "nan"],
    ("fit", "--evaluations"): ["0", "1.5"],
    ("fit", "--network"): ["cifar"],
    ("fit", "--dtype"): ["int8"],
    ("fit", "--batch"): ["0"],
    ("fit", "--tolerance"): ["0"],
    ("bench", "--seconds"): ["0", "-1", "nan", "inf"],
}
NEEDED = {"sample": (), "bench": (), "fit": ("--steps", "2", "--out", "plan.json")}


@pytest.mark.parametrize(("option", "text"), [(option, text) for option in UNREADABLE for text in UNREADABLE[option]])
def test_the_parser_refuses_a_bad_value_and_names_its_option(
    option: tuple[str, str], text: str, capsys: pytest.CaptureFixture
) -> None:
    command, name = option
    with pytest.raises(SystemExit) as ended:
        main([command, *NEEDED[command], f"{name}={text}"])
    assert ended.value.code == 2
    assert f"error: argument {name}: " in capsys.readouterr().err


@settings(max_examples=100)
@given(st.text(alphabet="0123456789,-x ", max_size=12))
@example("0-63,70")
def test_a_list_of_seeds_is_read_in_its_order_or_refused(text: str) -> None:
    try:
        seeds = seed_list(text)
    except argparse.ArgumentTypeError:
        return
    parts = [part.partition("-") for part in text.split(",")]
    ranges = [range(int(a), int(b if dash else a) + 1) for a, dash, b in parts]
    assert len(seeds) == sum(map(len, ranges))
    assert list(islice(seeds, 1000)) == list(islice(chain(*ranges), 1000))


# An option is honoured or refused, never without effect.


@pytest.mark.parametrize(
    ("arguments", "options", "beside"),
    [
        (("--solver", "fitted", "--grid", "karras"), "grid", "a fitted plan"),
        (("--plan", "PLAN", "--grid", "karras"), "--grid", "--plan"),
        (("--plan", "PLAN", "--steps", "4"), "--steps", "--plan"),
        (("--shard-size", "4", "--measure"), "--shard-size, --measure", "a single file"),
        (("--micro-batch", "4", "--batch", "4"), "--micro-batch, --batch", "a single file"),
        (("--shards", "png", "--each", "--format", "npy"), "--format, --each", "--shards"),
        (("--shards", "png", "--trace", "x.html"), "--trace", "--shards"),
        (("--compare", "ddim:2", "--shards", "png"), "--shards", "--compare"),
        (("--compare", "ddim:2", "--solver", "heun"), "--solver", "--compare"),
        (("--compare", "ddim:2", "--plan", "PLAN"), "--plan", "--compare"),
        (("--compare", "ddim:2", "--steps", "8", "--each"), "--steps, --each", "--compare"),
        (("--compare", "ddim:2", "--format", "npy"), "--format", "--compare"),
        (("--compare", "ddim:2", "--trajectory", "x.png"), "--trajectory", "--compare"),
        (("--compare", "ddim:2", "--trace", "x.html"), "--trace", "--compare"),
        (("--compare", "fitted:8:karras"), "--compare fitted:8:karras: grid", "a fitted plan"),
        (("--compare", "ddim:2", "fitted:8", "--grid", "time"), "--compare fitted:8: grid", "a fitted plan"),
        (("--compare", "ddim:2:karras", "--grid", "time"), "--grid", "every plan of --compare names its own"),
    ],
)
def test_an_option_without_effect_is_refused(
    arguments: tuple[str, ...], options: str, beside: str, capsys: pytest.CaptureFixture
) -> None:
    plan = str(demo.PLANS / "8.json")
    assert fastdiff(*(plan if argument == "PLAN" else argument for argument in arguments)) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"fastdiff sample: {options}: no effect")
    assert beside in error
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize("options", [(), ("--compare", "ddim:2")])
def test_more_seeds_than_are_drawn_at_once_want_shards(options: tuple[str, ...], capsys: pytest.CaptureFixture) -> None:
    assert fastdiff("--seeds", "1-1000001", *options) == 2
    assert "--seeds: expected at most 1,000,000 without --shards, got 1,000,001" in capsys.readouterr().err


def test_a_grid_is_the_plans_where_the_solver_is_not_named() -> None:
    for grid in ("quadratic", "karras"):
        fastdiff("--seeds", "0", "--grid", grid, "--out", f"{grid}.npy")
    assert np.abs(np.load("quadratic.npy") - np.load("karras.npy")).max() > 1e-3


def test_a_name_that_ends_in_npy_holds_an_array_and_format_is_stronger() -> None:
    fastdiff("--seeds", "0-1", "--out", "array.npy")
    assert np.load("array.npy").shape == (2, 1, 8, 8)
    fastdiff("--seeds", "0-1", "--format", "npy", "--out", "array.dat")
    assert np.load("array.dat").shape == (2, 1, 8, 8)
    fastdiff("--seeds", "0-1", "--format", "png", "--out", "picture.npy")
    assert Image.open("picture.npy").format == "PNG"
    assert sorted(path.name for path in Path().iterdir()) == ["array.dat", "array.npy", "picture.npy"]


# Where a result cannot be written is said before the work, with the user's name for it.


@pytest.fixture
def no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is drawn and nothing is fitted."""

    def worked(*_: object, **__: object) -> None:
        raise AssertionError("the work began")

    for module in (sample, compare, fit):
        monkeypatch.setattr(module.demo, "load_model", worked)
    monkeypatch.setattr(fit.demo, "network", worked)


COMMANDS = {
    "sample --out": ("sample", "--out"),
    "sample --trajectory": ("sample", "--trajectory"),
    "sample --each --out": ("sample", "--each", "--out"),
    "sample --shards --out": ("sample", "--shards", "png", "--out"),
    "sample --compare --out": ("sample", "--compare", "ddim:2", "--out"),
    "fit --out": ("fit", "--steps", "2", "--out"),
    "fit --folder": ("fit", "--steps", "2", "--out", "plan.json", "--folder"),
}
INTO_A_FOLDER = ("sample --each --out", "sample --shards --out", "fit --folder")


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("place", ["file/below", "file/far/below", "/proc/none/below", "n" * 300])
def test_what_cannot_be_written_is_said_before_the_work(
    command: str, place: str, no_work: None, capsys: pytest.CaptureFixture
) -> None:
    Path("file").touch()
    assert main([*COMMANDS[command], place]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"fastdiff {command.split()[0]}: {command.split()[-1]}: {place}: ")
    assert error.count("\n") == 1
    assert "partial" not in error
    assert [path.name for path in Path().iterdir()] == ["file"]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_folder_is_no_file_and_a_file_no_folder(command: str, no_work: None, capsys: pytest.CaptureFixture) -> None:
    Path("file").touch()
    place, words = ("file", "name a folder") if command in INTO_A_FOLDER else (".", "name a file")
    assert main([*COMMANDS[command], place]) == 2
    assert f"{command.split()[-1]}: {place}: this is a " in (error := capsys.readouterr().err)
    assert words in error


@pytest.mark.parametrize("command", COMMANDS)
def test_a_folder_that_refuses_new_files_is_named_before_the_work(
    command: str, no_work: None, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch = Path.touch

    def refused(self: Path, **options: object) -> None:
        if self.suffix == ".x":
            raise PermissionError(13, "Permission denied", str(self))
        touch(self, **options)

    monkeypatch.setattr(Path, "touch", refused)
    assert main([*COMMANDS[command], "place.x"]) == 2
    assert f"{command.split()[-1]}: place.x: Permission denied\n" in capsys.readouterr().err


def test_sample_and_fit_both_make_missing_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit, "fit_demo", lambda *_, **__: demo.fitted_plan(8))
    assert fastdiff("--seeds", "0", "--out", "a/b/one.png", "--trajectory", "c/strip.png") == 0
    assert main(["fit", "--steps", "8", "--out", "d/e/plan.json"]) == 0
    assert Path("a/b/one.png").stat().st_size > 0
    assert Path("c/strip.png").stat().st_size > 0
    assert Plan.load("d/e/plan.json") == demo.fitted_plan(8)


def test_a_failed_write_names_the_users_file_and_leaves_what_was_there(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def full(path: Path, _: bytes) -> None:
        path.touch()
        raise OSError(28, "No space left on device", str(path))

    Path("samples.png").write_text("before")
    monkeypatch.setattr(Path, "write_bytes", full)
    assert fastdiff("--seeds", "0") == 2
    assert capsys.readouterr().err == "fastdiff sample: --out: samples.png: No space left on device\n"
    assert Path("samples.png").read_text() == "before"
    assert len(list(Path().iterdir())) == 1


def test_two_runs_to_one_file_have_partial_files_of_their_own() -> None:
    partials = []

    def outer(path: Path) -> None:
        path.write_text("outer")
        write(Path("result.txt"), inner)
        assert path.read_text() == "outer"
        partials.append(path)

    def inner(path: Path) -> None:
        path.write_text("inner")
        partials.append(path)

    write(Path("result.txt"), outer)
    assert len({*partials}) == 2
    assert Path("result.txt").read_text() == "outer"
    assert [path.name for path in Path().iterdir()] == ["result.txt"]


def test_a_link_stays_a_link_and_a_device_a_device() -> None:
    Path("store").mkdir()
    Path("link.png").symlink_to("store/real.png")
    assert fastdiff("--seeds", "0", "--out", "link.png") == 0
    assert Path("link.png").is_symlink()
    assert Image.open("store/real.png").format == "PNG"
    os.mkfifo("pipe")
    reader = os.open("pipe", os.O_RDONLY | os.O_NONBLOCK)
    assert fastdiff("--seeds", "0", "--format", "npy", "--out", "pipe") == 0
    assert np.load(io.BytesIO(os.read(reader, 10**5))).shape == (1, 1, 8, 8)
    assert fastdiff("--seeds", "0", "--out", "pipe") == 0
    assert Image.open(io.BytesIO(os.read(reader, 10**5))).format == "PNG"
    assert Path("pipe").is_fifo()
    os.close(reader)


# Standard output.


def test_a_dash_writes_the_result_alone_to_standard_output(
    capsysbinary: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fit, "fit_demo", lambda *_, report, **__: [report("a trial"), demo.fitted_plan(8)][1])
    monkeypatch.setattr(compare, "CONVERGED_STEPS", 4)
    assert fastdiff("--seeds", "0-3", "--out", "-") == 0
    out, error = capsysbinary.readouterr()
    assert Image.open(io.BytesIO(out)).format == "PNG"
    assert error.startswith(b"4 samples, 8 NFE, ")
    assert error.endswith(b"-> standard output\n")
    assert fastdiff("--seeds", "0-3", "--out", "-", "--format", "npy") == 0
    assert np.load(io.BytesIO(capsysbinary.readouterr().out)).shape == (4, 1, 8, 8)
    assert fastdiff("--seeds", "0", "--trajectory", "-") == 0
    assert Image.open(io.BytesIO(capsysbinary.readouterr().out)).format == "PNG"
    assert fastdiff("--seeds", "0", "--compare", "ddim:2", "--out", "-") == 0
    out, error = capsysbinary.readouterr()
    assert Image.open(io.BytesIO(out)).format == "PNG"
    assert b"median error" in error
    assert main(["fit", "--steps", "8", "--out", "-"]) == 0
    out, error = capsysbinary.readouterr()
    assert Plan.from_dict(json.loads(out)) == demo.fitted_plan(8)
    assert b"a trial\n" in error
    assert [path.name for path in Path().iterdir()] == ["samples.png"]


def test_a_picture_is_not_written_to_a_terminal(
    no_work: None, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert fastdiff("--out", "-") == 2
    assert "--out -: standard output is a terminal" in capsys.readouterr().err


def test_bars_are_for_a_terminal_and_not_for_a_log(
    capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands = (("--seeds", "0"), ("--seeds", "0", "--compare", "ddim:2"))
    monkeypatch.setattr(compare, "CONVERGED_STEPS", 4)
    for command in commands:
        assert fastdiff(*command) == 0
        assert capsys.readouterr().err == ""
    bars = []
    monkeypatch.setattr(fit, "fit_demo", lambda *_, progress, **__: [bars.append(progress), demo.fitted_plan(8)][1])
    main(["fit", "--steps", "8", "--out", "plan.json"])
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    main(["fit", "--steps", "8", "--out", "plan.json"])
    assert bars == [False, True]
    for command in commands:
        assert fastdiff(*command) == 0
        assert "step/s" in capsys.readouterr().err


def test_nobody_reading_standard_output_is_no_traceback() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "fastdiff", "info"]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")


def test_version(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"fastdiff {__version__}\n"


# Interruptions.


@pytest.fixture
def heeded_interruptions() -> Iterator[None]:
    """As for a command that somebody started: what runs in the background is often made to ignore them."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heeded_interruptions")
@pytest.mark.parametrize("bars", [False, True])
@pytest.mark.parametrize("command", [("sample",), ("sample", "--compare", "ddim:2"), ("fit", *NEEDED["fit"])])
def test_an_interruption_is_one_line_and_leaves_no_file(
    command: tuple[str, ...], bars: bool, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Interrupted(torch.nn.Module):
        def forward(self, x: torch.Tensor, *_: object, **__: object) -> torch.Tensor:
            os.kill(os.getpid(), signal.SIGINT)
            return x

    digits = replace(demo.network("digits"), model=Interrupted())
    monkeypatch.setattr(demo, "load_model", Interrupted)
    monkeypatch.setattr(demo, "network", lambda name: digits)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: bars)
    assert main([*command]) == 130
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1] == f"fastdiff {command[0]}: interrupted"
    assert len(lines) == 1 or bars
    assert list(Path().iterdir()) == []


def test_an_interrupted_write_leaves_no_partial_file(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(path: Path, _: bytes) -> None:
        path.touch()
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_bytes", broken)
    assert fastdiff("--seeds", "0") == 130
    assert list(Path().iterdir()) == []
