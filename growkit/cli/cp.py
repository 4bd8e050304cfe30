"""Copy a recipe to a file, to make it your own."""

from __future__ import annotations

import argparse
from pathlib import Path

from growkit.cli.recipes import find
from growkit.errors import RecipeError
from growkit.plugins import Plugins

__all__ = ["add_arguments", "command"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add source and target."""
    parser.add_argument("recipe", help="name of a recipe, or a YAML file")
    parser.add_argument("target", type=Path, help="file to write; it must not exist")


def command(options: argparse.Namespace) -> None:
    """Write the YAML, never over a file that is there."""
    text = find(options.recipe, Plugins()).text
    try:
        with options.target.open("x", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise RecipeError(
            f"cannot copy the recipe to {str(options.target)!r}",
            seen=str(error.strerror),
            expected="a file that does not exist, in a folder that does",
            advice="choose another target",
        ) from error
    print(f"{options.target} written; run it with: growkit run {options.target}")
