"""fastdiff comfyui: the node pack in a checkout of ComfyUI."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ..comfyui import installation
from ..comfyui.nodes import NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `fastdiff comfyui`."""
    actions = parser.add_subparsers(dest="action", required=True)
    for name, text in (
        ("install", "put the nodes into custom_nodes, in the place of an earlier version"),
        ("uninstall", "take them out again"),
        ("list", "the nodes, and whether they are installed"),
    ):
        action = actions.add_parser(name, help=text, description=text)
        action.add_argument("path", type=Path, metavar="PATH", help="the folder of ComfyUI")
        if name == "install":
            action.add_argument("--copy", action="store_true", help="copy the pack instead of linking to it")


def run(arguments: argparse.Namespace) -> int:
    """Do it and say what was done."""
    comfyui: Path = arguments.path
    if arguments.action == "install":
        place = installation.install(comfyui, copy=arguments.copy)
        print(f"{len(NODE_CLASS_MAPPINGS)} nodes -> {place}; start ComfyUI with {sys.executable}")
    elif arguments.action == "uninstall":
        print("removed" if installation.uninstall(comfyui) else "nothing was installed")
    else:
        print("\n".join(table(installation.place_in(comfyui))))
    return 0


def table(place: Path) -> list[str]:
    """One line a node: its name in workflows, its category, its title."""
    there = installation.is_ours(place) if place.exists() or place.is_symlink() else False
    lines = [f"{place}: {'installed' if there else 'not installed'}"]
    for name, node in NODE_CLASS_MAPPINGS.items():
        lines.append(f"{name:28s} {node.CATEGORY:18s} {NODE_DISPLAY_NAME_MAPPINGS[name]}")
    return lines
