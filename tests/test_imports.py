"""Imports run one way: from the faces down to plans, with no circle anywhere.

Every import statement counts, also those inside functions and under TYPE_CHECKING: what a module knows is what it
names, whenever Python happens to load it.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import fastdiff

PACKAGE = Path(fastdiff.__file__).parent

# From the ground up. A module belongs to the longest of these names that it begins with, and may import from its own
# floor and from those below. Names on one line are rooms of one floor.
FLOORS = (
    ("fastdiff.files", "fastdiff.keywords", "fastdiff.arguments"),
    ("fastdiff.plans",),
    ("fastdiff.ops",),
    ("fastdiff.sampling",),
    ("fastdiff.nn", "fastdiff.guidance", "fastdiff.posterior", "fastdiff.distributed", "fastdiff.structures"),
    ("fastdiff.fitting", "fastdiff.inspection", "fastdiff.tokens", "fastdiff.training"),
    (
        "fastdiff.schedulers",
        "fastdiff.token_schedulers",
        "fastdiff.guiders",
        "fastdiff.hosts",
        "fastdiff.kdiffusion",
        "fastdiff.comfyui",
        "fastdiff.dpm_solver",
        "fastdiff.patch",
        "fastdiff.pipelines",
    ),
    ("fastdiff.demo",),
    ("fastdiff",),
    ("fastdiff.commands",),
    ("fastdiff.__main__",),
)
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
# Rooms that share a floor do not know each other, but for these.
NEIGHBOURS = {
    ("fastdiff.patch", "fastdiff.schedulers"),  # accelerate swaps a pipeline's scheduler
    ("fastdiff.guiders", "fastdiff.patch"),  # guiders perturb networks
    ("fastdiff.comfyui", "fastdiff.kdiffusion"),  # nodes run samplers
    ("fastdiff.comfyui", "fastdiff.patch"),  # and accelerate models
    ("fastdiff.hosts", "fastdiff.kdiffusion"),  # stable-audio-tools runs k-diffusion's samplers
    ("fastdiff.hosts", "fastdiff.patch"),  # a change in place has a handle that undoes it
}

# What a kernel knows of a plan: the record that it reads.
TABLE = "fastdiff.plans.table"
SAMPLING = FLOOR_OF["fastdiff.sampling"]


def modules() -> dict[str, Path]:
    """Every Python module of the package by its name; a package goes by its folder's."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def imported_names(module: str, source: str) -> Iterator[str]:
    """Absolute dotted names that the source imports, each with the name taken from it at its end."""
    package = module if MODULES[module].name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")
            above = parts[: len(parts) - node.level + 1] if node.level else []
            origin = ".".join([*above, *([node.module] if node.module else [])])
            yield from (f"{origin}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "importlib.import_module":
            # Of names that are computed there is one: a backend's, in `ops.registry`, on its own floor.
            name = node.args[0].value if isinstance(node.args[0], ast.Constant) else "importlib"
            yield package + name if name.startswith(".") else name


def imports(module: str) -> set[str]:
    """The package's own modules that this one imports."""
    found = set()
    for name in imported_names(module, MODULES[module].read_text()):
        # `from ..ops import checks` is the module; `from ..ops import group_norm` is something of the package's.
        owner = name if name in MODULES else name.rpartition(".")[0]
        if owner in MODULES:
            found.add(owner)
    return found - {module}


ARROWS = {module: imports(module) for module in MODULES}


def room(module: str) -> str:
    return max((name for name in FLOOR_OF if f"{module}.".startswith(f"{name}.")), key=len)


def others(module: str) -> set[str]:
    """The top names of what a module imports from outside the package."""
    names = imported_names(module, MODULES[module].read_text())
    return {name.split(".")[0] for name in names} - {"fastdiff"}


def allowed(module: str, other: str) -> bool:
    here, there = room(module), room(other)
    if here == "fastdiff.ops" and there == "fastdiff.plans":
        return other == TABLE
    if FLOOR_OF[here] == FLOOR_OF[there]:
        return here == there or (here, there) in NEIGHBOURS
    return FLOOR_OF[there] < FLOOR_OF[here]


def circles(arrows: dict[str, set[str]]) -> list[set[str]]:
    """The sets of two and more modules that can all reach one another (Tarjan 1972)."""
    order: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found = []

    def visit(module: str) -> None:
        order[module] = low[module] = len(order)
        stack.append(module)
        for other in sorted(arrows[module]):
            if other not in order:
                visit(other)
            if other in stack:
                low[module] = min(low[module], low[other])
        if low[module] == order[module]:
            place = stack.index(module)
            ring = set(stack[place:])
            del stack[place:]
            if len(ring) > 1:
                found.append(ring)

    for module in arrows:
        if module not in order:
            visit(module)
    return found


def test_every_module_has_a_room():
    rooms = {room(module) for module in MODULES}
    files_of_the_root = {module for module in MODULES if module.count(".") == 1 and room(module) == "fastdiff"}
    assert {"fastdiff.plans", "fastdiff.ops", "fastdiff.sampling"} <= rooms
    assert not files_of_the_root, "name the room that these belong to"


@pytest.mark.parametrize("module", MODULES)
def test_no_import_runs_back_up(module):
    assert not sorted(other for other in ARROWS[module] if not allowed(module, other))


def test_no_modules_import_one_another():
    assert circles(ARROWS) == []


def test_a_circle_is_found_where_there_is_one():
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}}) == [{"b", "c"}]


def test_an_import_that_runs_back_up_is_seen_wherever_it_stands():
    source = """
def f():
    from ..sampling.sample import sample
    from .. import nn
    importlib.import_module("fastdiff.patch.handle")
"""
    seen = set(imported_names("fastdiff.plans.plan", source))
    assert seen == {"fastdiff.sampling.sample.sample", "fastdiff.nn", "fastdiff.patch.handle"}
    assert not any(allowed("fastdiff.plans.plan", other) for other in ("fastdiff.sampling.sample", "fastdiff.nn"))
    assert not allowed("fastdiff.ops.reference", "fastdiff.plans.row")
    assert allowed("fastdiff.ops.reference", TABLE)


@pytest.mark.parametrize("module", [m for m in MODULES if FLOOR_OF[room(m)] <= FLOOR_OF["fastdiff.plans"]])
def test_plans_and_what_lies_below_know_no_tensors(module):
    assert not others(module) & {"torch", "triton", "safetensors", "diffusers"}


@pytest.mark.parametrize("module", [m for m in MODULES if FLOOR_OF[room(m)] <= SAMPLING])
def test_nothing_from_sampling_downward_knows_another_packages_protocol(module):
    assert not others(module) & {"diffusers", "k_diffusion", "transformers", "comfy", "deepinv"}
