"""Jobs: many samples into a folder, the same bytes however they are divided, and none of them drawn twice."""

from __future__ import annotations

import json
from functools import partial
from itertools import chain, pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from job_folders import PLAN, by_seed, files_of, job, labels
from torch import Tensor

import fastdiff as fd
from fastdiff import demo
from fastdiff.distributed.folder import JobFolder
from fastdiff.distributed.formats import FORMATS
from fastdiff.distributed.progress import Progress, closing
from fastdiff.distributed.seeds import Seeds

GUIDED = {"guidance": 3.0, "uncond": {"y": torch.full((1,), demo.NUM_CLASSES)}}
FLOW = fd.plan("ddim", fd.Schedule.edm(), 3, eta=1.0, grid="karras", prediction="sample")  # it draws noise


@pytest.fixture(scope="module")
def digits() -> fd.distributed.Draw:
    return fd.distributed.Draw(demo.load_model(), PLAN, demo.SHAPE, conditions=labels)


def denoiser(x: Tensor, sigma: Tensor, *, scale: float = 1.0) -> Tensor:
    """E[x0 | x0 + sigma eps = x] of Gaussian data."""
    return scale * x / (1 + sigma.view(-1, 1) ** 2)


class Counted:
    """A function that draws, and the seeds that it was called with."""

    def __init__(self) -> None:
        self.seeds: list[int] = []
        self.draw = fd.distributed.Draw(denoiser, FLOW, (3,), name="Gaussian")

    def __call__(self, seeds: list[int]) -> Tensor:
        self.seeds += seeds
        return self.draw(seeds)


def pictures(x: Tensor) -> Tensor:
    """[B, 3] as rows of grey."""
    return (x * 50 + 128).clamp(0, 255).to(torch.uint8)[:, None]


# Who draws what.


@pytest.mark.parametrize("count", [0, 1, 999, 1000, 1001, 50_000, 10**9])
def test_a_thousand_parts_cover_every_seed_once_and_differ_by_one_at_most(count):
    parts = [fd.distributed.shard(range(count), rank=rank, ranks=1000) for rank in range(1000)]
    assert parts[0].start == 0
    assert parts[-1].stop == count
    assert all(a.stop == b.start for a, b in pairwise(parts))
    assert {len(part) for part in parts} <= {count // 1000, -(-count // 1000)}


def test_a_process_alone_has_all_and_any_sequence_is_divided():
    assert fd.distributed.shard([3, 1, 2]) == [3, 1, 2]
    assert fd.distributed.shard(torch.arange(5), rank=1, ranks=2).tolist() == [2, 3, 4]
    for wrong in ({"rank": 1}, {"rank": 2, "ranks": 2}, {"ranks": 2}):
        with pytest.raises(ValueError, match="rank"):
            fd.distributed.shard([1], **wrong)


@given(st.sets(st.integers(0, 60), min_size=1), st.integers(1, 9))
def test_seeds_lie_in_the_shards_of_their_numbers(wanted, size):
    seeds = Seeds(sorted(wanted, reverse=True))
    assert list(seeds) == sorted(wanted)
    assert len(seeds) == len(wanted)
    numbers = seeds.shards(size)
    assert numbers == sorted({seed // size for seed in wanted})
    parts = [seeds.within(n * size, (n + 1) * size) for n in numbers]
    assert all(parts)
    assert list(chain(*parts)) == sorted(wanted)
    assert [seeds.before(part[0]) for part in parts] == [sum(map(len, parts[:i])) for i in range(len(parts))]


def test_a_billion_seeds_take_no_memory():
    seeds = Seeds(range(10**9))
    assert (len(seeds), str(seeds)) == (10**9, "0-999999999")
    assert seeds.within(10**9 - 2, 10**9 + 2) == [10**9 - 2, 10**9 - 1]


# The same bytes.


@pytest.mark.parametrize(
    "options",
    [{}, GUIDED, GUIDED | {"guidance_mode": "calls"}, {**GUIDED, "guidance": fd.guidance.APG(4.0, momentum=-0.5)}],
    ids=["plain", "guided", "two calls", "APG"],
)
def test_an_image_has_the_same_bytes_in_any_batch_shard_and_company(options, tmp_path):
    draw = fd.distributed.Draw(demo.load_model(), PLAN, demo.SHAPE, conditions=labels, **options)
    job(tmp_path / "one", draw)
    job(tmp_path / "batch", draw, batch=24)
    assert files_of(tmp_path / "one") == files_of(tmp_path / "batch")
    job(tmp_path / "few", draw, [30, 2, 9, 10, 39], batch=13, shard=8)
    one, few = by_seed(tmp_path / "one"), by_seed(tmp_path / "few")
    assert sorted(few) == [2, 9, 10, 30, 39]
    assert all(one[seed] == few[seed] for seed in few)


def test_another_micro_batch_changes_rounding_alone(digits, tmp_path):
    for size in (2, 16):
        job(tmp_path / str(size), digits, micro_batch=size)
    a, b = (by_seed(tmp_path / str(size)) for size in (2, 16))
    for seed in a:
        np.testing.assert_allclose(*(np.frombuffer(x[seed], np.float32) for x in (a, b)), atol=1e-3)


def test_images_are_those_of_sample_with_the_seed(digits, tmp_path):
    job(tmp_path, digits, range(16), micro_batch=16)
    seeds = list(range(16))
    x = fd.sample(demo.load_model(), PLAN, fd.noise.randn((16, *demo.SHAPE), seeds), **labels(seeds))
    assert by_seed(tmp_path) == {seed: x[seed].numpy().tobytes() for seed in seeds}


@pytest.mark.parametrize("format", FORMATS)
def test_a_shard_holds_what_was_drawn_and_is_read_back(format, digits, tmp_path):
    if FORMATS[format].module:
        pytest.importorskip(FORMATS[format].module)
    threads = torch.get_num_threads()  # what is drawn below has
    job(tmp_path, digits, range(5, 20), format=format, images=demo.to_images, threads=threads)
    kind = FORMATS[format]
    found = torch.cat([kind.load(tmp_path / f"shard-{k:06d}{kind.suffix}") for k in range(2)])
    x = torch.cat([digits(list(range(k, k + 8))) for k in (0, 8, 16)])[5:20]
    expected = x if format == "safetensors" else torch.from_numpy(demo.to_images(x))
    assert torch.equal(found, expected)


def test_webdataset_reads_its_shards(digits, tmp_path):
    webdataset = pytest.importorskip("webdataset")
    job(tmp_path / "pictures", digits, range(20), format="webdataset", images=demo.to_images)
    job(tmp_path / "arrays", digits, range(20), format="webdataset")
    for name, kind in (("pictures", "png"), ("arrays", "npy")):
        shards = [str(path) for path in sorted((tmp_path / name).glob("*.tar"))]
        found = list(webdataset.WebDataset(shards, shardshuffle=False))
        assert [each["__key__"] for each in found] == [f"{seed:09d}" for seed in range(20)]
        assert all(each[kind] for each in found)


# Stopped and continued.


def test_what_is_whole_is_not_drawn_again(tmp_path):
    first, again, other = Counted(), Counted(), Counted()
    assert job(tmp_path, first, torch.arange(40)).drawn == 40
    before = files_of(tmp_path)
    assert job(tmp_path, again).drawn == 0
    assert again.seeds == []
    (tmp_path / "journal" / "000001.json").unlink()  # killed between the shard and its entry
    assert job(tmp_path, other, batch=40).drawn == 16
    assert other.seeds == list(range(16, 32))
    assert files_of(tmp_path) == before


def test_the_threads_of_the_process_change_nothing(tmp_path):
    draw, before = fd.distributed.Draw(demo.load_model(), PLAN, demo.SHAPE, conditions=labels), torch.get_num_threads()
    for threads in (1, 2):
        torch.set_num_threads(threads)
        job(tmp_path / str(threads), draw, range(16), micro_batch=4)
        assert torch.get_num_threads() == threads
    torch.set_num_threads(before)
    assert files_of(tmp_path / "1") == files_of(tmp_path / "2")
    with pytest.raises(ValueError, match=r"^threads: the job of .* was begun with 1, got 2"):
        job(tmp_path / "1", draw, range(16), micro_batch=4, threads=2)


def test_a_shard_has_one_drawer(tmp_path):
    folder = JobFolder(tmp_path, FORMATS["safetensors"])
    folder.claim({})
    assert folder.take(0)
    assert not folder.take(0)
    folder.give_back(0)
    assert folder.take(0)
    folder.save(0, [1, 2], torch.zeros(2, 3))
    assert not folder.take(0)
    assert folder.take(1)
    folder.claim({})  # the next start, after its drawer was killed
    assert folder.take(1)


def test_a_folder_has_one_run_at_a_time(tmp_path):
    def drawing(seeds):
        with pytest.raises(BlockingIOError, match=r"^folder: another run draws into"):
            job(tmp_path, Counted())
        return Counted()(seeds)

    assert job(tmp_path, drawing).drawn == 40
    assert job(tmp_path, Counted()).drawn == 0
    with pytest.raises(ValueError, match=r"^seeds: "):
        job(tmp_path, Counted(), range(8))
    assert job(tmp_path, Counted()).drawn == 0  # one that was refused holds nothing


def test_a_file_system_without_locks_is_drawn_into(tmp_path, monkeypatch):
    def acquire(self):
        raise NotImplementedError("FileSystem does not appear to support flock; use SoftFileLock instead")

    monkeypatch.setattr("filelock.FileLock.acquire", acquire)
    assert job(tmp_path, Counted()).drawn == 40


def test_a_shard_whose_drawing_failed_is_drawn_by_the_next_call(tmp_path):
    def failing(seeds):
        raise OSError("no more memory")

    with pytest.raises(OSError, match="no more memory"):
        job(tmp_path, failing)
    assert not list(tmp_path.glob("journal/*"))
    assert job(tmp_path, Counted()).drawn == 40


@pytest.mark.parametrize("damage", ["cut", "changed", "gone", "entry"])
@pytest.mark.parametrize("format", ["safetensors", "png"])
def test_a_damaged_shard_is_told_and_drawn_again(damage, format, tmp_path):
    options = {"format": format, "images": pictures}
    job(tmp_path, Counted(), **options)
    before, told = files_of(tmp_path), []
    shard = tmp_path / f"shard-000001{FORMATS[format].suffix}"
    path = shard if shard.is_file() else shard / "000000017.png"
    data = path.read_bytes()
    if damage == "entry":
        (tmp_path / "journal" / "000001.json").write_text('{"shard": ')
    elif damage == "gone":
        path.unlink()
    else:
        path.write_bytes(data[:-9] if damage == "cut" else data[:-1] + bytes([data[-1] ^ 1]))
    assert job(tmp_path, Counted(), **options, report=told.append).drawn == 16
    assert told[0] == f"{shard.name} is not as it was written: it is drawn again"
    assert files_of(tmp_path) == before


def test_progress_counts_the_shards_of_all_processes_and_gives_up_where_none_comes():
    whole = [0, 2]
    progress = Progress(lambda: whole, lambda number: 10, total=35, shown=True)
    with closing(progress):
        assert progress.bar.n == 20
        whole.append(1)
        progress.drawn(3)
        assert progress.look() == 3
        assert progress.bar.n == 33
        progress.wait_for(3, patience=0)
        with pytest.raises(RuntimeError, match="1 of 4 shards are missing"):
            progress.wait_for(4, patience=0)


def test_what_a_killed_process_left_half_written_is_taken_away(tmp_path):
    job(tmp_path, Counted())
    before = files_of(tmp_path)
    (tmp_path / ".0123.partial.safetensors").touch()
    (tmp_path / ".4567.partial").mkdir()
    job(tmp_path, Counted())
    assert files_of(tmp_path) == before
    assert [path.name for path in tmp_path.glob(".*")] == [".lock"]


OTHERS = {
    "plan": {"plan": fd.plan("ddim", fd.Schedule.edm(), 4, eta=1.0, grid="karras", prediction="sample")},
    "options.scale": {"scale": 0.5},
    "options.clamp": {"clamp": 1.0},
    "conditions.y": {"conditions": lambda seeds: {"y": torch.ones(len(seeds), dtype=torch.int64)}},
    "model": {"name": "another"},
    "dtype": {"dtype": torch.float64},
}


@pytest.mark.parametrize("name", [*OTHERS, "seeds", "micro_batch", "shard", "format", "versions.torch"])
def test_a_folder_of_another_job_is_refused_by_what_is_different(name, tmp_path):
    def draw(plan: fd.Plan = FLOW, **options: object) -> fd.distributed.Draw:
        given = {"scale": 1.0, "name": "Gaussian", "conditions": labels} | options
        return fd.distributed.Draw(lambda x, t, *, scale, y: denoiser(x, t, scale=scale), plan, (3,), **given)

    job(tmp_path, draw())
    before = files_of(tmp_path)
    changed = {"seeds": range(41), "micro_batch": 16, "shard": 32, "format": "webdataset"}
    if name == "versions.torch":
        manifest = json.loads(before["manifest.json"])
        manifest["versions"]["torch"] = "1.0"
        (tmp_path / "manifest.json").write_text(json.dumps(manifest))
        before = files_of(tmp_path)
    with pytest.raises(ValueError, match=rf"^{name}\b.*: the job of .* was begun with .*, got ") as refused:
        job(tmp_path, draw(**OTHERS.get(name, {})), **({name: changed[name]} if name in changed else {}))
    assert len(str(refused.value)) < 500
    assert files_of(tmp_path) == before


def test_other_weights_are_another_model(tmp_path):
    model = demo.load_model()
    job(tmp_path, fd.distributed.Draw(model, PLAN, demo.SHAPE, conditions=labels))
    next(model.parameters()).data[0] += 1e-3
    with pytest.raises(ValueError, match=r"^model: the job of"):
        job(tmp_path, fd.distributed.Draw(model, PLAN, demo.SHAPE, conditions=labels))


def test_the_manifest_says_what_was_drawn(digits, tmp_path):
    job(tmp_path, digits, [*range(9), 12])
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["seeds"] == "0-8,12"
    assert fd.Plan.from_dict(manifest["plan"]["table"]) == PLAN
    assert manifest["model"].startswith("UNet sha256 ")
    assert manifest["versions"].keys() == {"fastdiff", "torch"}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"format": "jpg"}, "format: expected one of safetensors, webdataset, png"),
        ({"format": "png"}, "images: 'png' needs"),
        ({"shard": 12}, "shard: expected a multiple of the micro_batch 8, got 12"),
        ({"micro_batch": 0}, "micro_batch: expected a whole number >= 1, got 0"),
        ({"batch": -1}, "batch: expected a whole number >= 1"),
        ({"seeds": []}, "seeds: expected at least one"),
        ({"seeds": [1, 2, 1]}, "seeds: expected each once, got 1 again"),
        ({"seeds": [-1]}, "seeds: expected numbers from 0"),
        ({"told": None}, "told: a folder has to know a function again"),
        ({"draw": lambda seeds: torch.zeros(3)}, "draw: expected a tensor of the 8 samples"),
        ({"format": "png", "images": lambda x: x}, "images: expected uint8"),
    ],
)
def test_what_a_job_cannot_be_is_refused_by_name(options, words, tmp_path):
    with pytest.raises(ValueError, match=words):
        job(tmp_path, **{"draw": Counted()} | options)


def test_what_a_draw_cannot_be_is_refused_by_name():
    draw = partial(fd.distributed.Draw, denoiser, FLOW, (3,))
    with pytest.raises(ValueError, match="progress: a job has none"):
        draw(progress=True)
    with pytest.raises(TypeError, match="gidance"):
        draw(gidance=2.0)
    with pytest.raises(ValueError, match="dtype"):
        draw(dtype=torch.int64)
    with pytest.raises(ValueError, match="model: a job has to know a network again"):
        draw().told([0])
