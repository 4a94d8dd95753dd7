"""The node pack: installed, listed and taken out again; and in both forms that ComfyUI loads."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import sys
from pathlib import Path

import comfy_io
import pytest

import fastdiff as fd
from fastdiff.__main__ import main
from fastdiff.comfyui.installation import MARKS, NAME, PACK
from fastdiff.comfyui.nodes import NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS, comfy_entrypoint

if sys.version_info >= (3, 11):
    import tomllib


@pytest.fixture
def comfyui_folder(tmp_path):
    """A folder with what ComfyUI is known by."""
    for mark in MARKS:
        path = tmp_path / "ComfyUI" / mark
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir() if mark == "custom_nodes" else path.touch()
    return tmp_path / "ComfyUI"


def command(*arguments):
    return main(["comfyui", *map(str, arguments)])


def loaded(place):
    """The pack as ComfyUI imports it."""
    spec = importlib.util.spec_from_file_location("pack", place / "__init__.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("copy", [False, True], ids=["link", "copy"])
def test_installed_twice_listed_and_taken_out(comfyui_folder, copy, capsys):
    place, how = comfyui_folder / "custom_nodes" / NAME, ["--copy"] if copy else []
    for _ in range(2):
        assert command("install", comfyui_folder, *how) == 0
        assert place.is_symlink() != copy
        assert os.listdir(place.parent) == [NAME]
    assert f"{len(NODE_CLASS_MAPPINGS)} nodes -> {place}" in capsys.readouterr().out
    assert loaded(place).NODE_CLASS_MAPPINGS is NODE_CLASS_MAPPINGS
    assert {path.name for path in PACK.iterdir()} - {"__pycache__"} <= {path.name for path in place.iterdir()}
    assert command("list", comfyui_folder) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"{place}: installed\n")
    assert all(name in said and title in said for name, title in NODE_DISPLAY_NAME_MAPPINGS.items())
    assert command("uninstall", comfyui_folder) == 0
    assert not place.exists()
    assert not place.is_symlink()
    assert PACK.joinpath("__init__.py").exists()
    assert command("uninstall", comfyui_folder) == 0
    assert command("list", comfyui_folder) == 0
    assert ": not installed\n" in capsys.readouterr().out


def test_a_link_to_a_removed_environment_is_replaced_and_a_link_by_a_copy(comfyui_folder):
    place = comfyui_folder / "custom_nodes" / NAME
    place.symlink_to(comfyui_folder / "gone" / "fastdiff" / "comfyui" / "pack")
    assert command("install", comfyui_folder) == 0
    assert place.resolve() == PACK
    assert command("install", comfyui_folder, "--copy") == 0
    assert not place.is_symlink()


def test_what_is_not_comfyui_and_what_is_not_ours_stay_as_they_are(comfyui_folder, tmp_path, capsys):
    for action in ("install", "uninstall", "list"):
        assert command(action, tmp_path) == 2
    assert "expected a checkout of ComfyUI, but there is no nodes.py, execution.py, comfy/samplers.py" in (
        capsys.readouterr().err
    )
    theirs = comfyui_folder / "custom_nodes" / NAME
    theirs.mkdir()
    (theirs / "__init__.py").write_text("NODE_CLASS_MAPPINGS = {}\n")
    for action in ("install", "uninstall"):
        assert command(action, comfyui_folder) == 2
        assert f"{theirs}: this is not fastdiff's; move it away first" in capsys.readouterr().err
    assert (theirs / "__init__.py").read_text() == "NODE_CLASS_MAPPINGS = {}\n"
    assert os.listdir(theirs.parent) == [NAME]


@pytest.mark.skipif(sys.version_info < (3, 11), reason="tomllib came with Python 3.11")
def test_the_registry_reads_this_version_and_what_it_needs():
    table = tomllib.loads(PACK.joinpath("pyproject.toml").read_text())
    project, comfy = table["project"], table["tool"]["comfy"]
    assert (project["name"], project["version"]) == ("fastdiff", fd.__version__)
    assert project["dependencies"] == [f"fastdiff>={fd.__version__}"]
    assert PACK.joinpath("requirements.txt").read_text().split() == project["dependencies"]
    assert comfy["PublisherId"]
    assert comfy["DisplayName"] == "fastdiff"
    # The wheel has what the folder has.
    package = tomllib.loads(Path(__file__).parents[1].joinpath("pyproject.toml").read_text())
    assert "comfyui/pack/*" in package["tool"]["setuptools"]["package-data"]["fastdiff"]


@pytest.fixture
def newer(comfy_modules, monkeypatch):
    """The nodes by name, as ComfyUI's newer form has them."""
    if not comfy_modules.real:
        comfy_io.install(monkeypatch)
    extension = asyncio.run(comfy_entrypoint())
    return {node.GET_SCHEMA().node_id: node for node in asyncio.run(extension.get_node_list())}


def test_both_forms_say_the_same(newer):
    assert list(newer) == list(NODE_CLASS_MAPPINGS)
    for name, node in newer.items():
        older, schema = NODE_CLASS_MAPPINGS[name], node.GET_SCHEMA()
        assert (schema.display_name, schema.category) == (NODE_DISPLAY_NAME_MAPPINGS[name], older.CATEGORY)
        assert schema.description == older.DESCRIPTION
        assert tuple(output.io_type for output in schema.outputs) == older.RETURN_TYPES
        inputs = {key: widget for group in older.INPUT_TYPES().values() for key, widget in group.items()}
        assert [each.id for each in schema.inputs] == list(inputs)
        for each in schema.inputs:
            kind, values = inputs[each.id]
            assert getattr(each, "options", each.io_type) == kind
            shown = each.values if hasattr(each, "values") else vars(each)
            assert {key: shown[key] for key in values} == values
            assert shown["optional"] == (each.id in older.INPUT_TYPES().get("optional", {}))


def test_the_newer_form_runs_checks_and_tells_changes(newer, comfy_modules):
    patcher = comfy_modules.patcher(flow=True)
    made = newer["FastdiffScheduler"].execute(model=patcher, scheduler="time", steps=4, denoise=1.0)
    (expected,) = NODE_CLASS_MAPPINGS["FastdiffScheduler"]().get_sigmas(patcher, "time", 4, 1.0)
    assert made.result[0].tolist() == expected.tolist()
    guided = newer["FastdiffCFG"].execute(model=patcher, rescale=0.5, end_percent=0.8).result[0]
    assert guided is not patcher
    assert newer["FastdiffSampler"].validate_inputs(sampler_name="euler", options="eta=1").startswith("options: ")
    assert newer["FastdiffSampler"].validate_inputs(sampler_name="euler", options="") is True
    with pytest.raises(FileNotFoundError):
        newer["FastdiffLoadPlan"].fingerprint_inputs(plan="none.json")


def test_comfyui_loads_a_pack_of_the_newer_form_alone(comfyui, tmp_path, monkeypatch):
    import nodes

    monkeypatch.setattr(nodes, "NODE_CLASS_MAPPINGS", {})
    (tmp_path / "__init__.py").write_text("from fastdiff.comfyui.nodes import comfy_entrypoint\n")
    assert asyncio.run(nodes.load_custom_node(os.fspath(tmp_path)))
    assert set(nodes.NODE_CLASS_MAPPINGS) == set(NODE_CLASS_MAPPINGS)
    told = {name: node.GET_NODE_INFO_V1() for name, node in nodes.NODE_CLASS_MAPPINGS.items()}
    assert told["FastdiffSampler"]["input"]["required"]["sampler_name"][0] == "COMBO"
    assert told["FastdiffFitPlan"]["output"] == ["SAMPLER", "SIGMAS", "STRING"]
