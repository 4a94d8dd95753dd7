"""The node pack in a checkout of ComfyUI: a link to the folder `pack` beside this file, or a copy of it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from ..files import partial_of

PACK = Path(__file__).with_name("pack")
NAME = "fastdiff"  # of the folder in ComfyUI
MARKS = ("nodes.py", "execution.py", "comfy/samplers.py", "custom_nodes")  # by which a folder is known as ComfyUI


def place_in(comfyui: Path) -> Path:
    """Where the pack belongs. Raises ValueError where the folder is no ComfyUI."""
    missing = [name for name in MARKS if not (comfyui / name).exists()]
    if missing:
        raise ValueError(f"{comfyui}: expected a checkout of ComfyUI, but there is no {', '.join(missing)}")
    return comfyui / "custom_nodes" / NAME


def is_ours(place: Path) -> bool:
    """Whether what is there is the pack, linked or copied, of this version or another."""
    if place.is_symlink() and place.readlink().parts[-3:] == PACK.parts[-3:]:
        return True  # also where the environment that it leads to is gone
    first = PACK.joinpath("__init__.py").read_text().splitlines()[0]
    main = place / "__init__.py"
    return main.is_file() and main.read_text(errors="replace").startswith(first)


def install(comfyui: Path, *, copy: bool = False) -> Path:
    """Link or copy the pack into custom_nodes, in the place of an earlier one; returns where it is.

    Raises ValueError where the folder is no ComfyUI, or holds something else of that name.
    """
    place = place_in(comfyui)
    _require_ours(place)
    partial = partial_of(place)
    try:
        if copy:
            shutil.copytree(PACK, partial, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            os.symlink(PACK, partial, target_is_directory=True)
    except OSError as error:
        raise OSError(error.errno, f"{error.strerror}; --copy needs no link", str(place)) from error
    uninstall(comfyui)
    partial.rename(place)
    return place


def uninstall(comfyui: Path) -> bool:
    """Remove the pack; whether it was there. Raises ValueError as `install` does."""
    place = place_in(comfyui)
    _require_ours(place)
    if place.is_symlink():
        place.unlink()
        return True
    if place.exists():
        shutil.rmtree(place)
        return True
    return False


def _require_ours(place: Path) -> None:
    if (place.exists() or place.is_symlink()) and not is_ours(place):
        raise ValueError(f"{place}: this is not fastdiff's; move it away first")
