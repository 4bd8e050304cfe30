"""Print a recipe."""

from __future__ import annotations

import argparse

from growkit.cli.recipes import find
from growkit.plugins import Plugins

__all__ = ["add_arguments", "command"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the recipe."""
    parser.add_argument("recipe", help="name of a recipe, or a YAML file")


def command(options: argparse.Namespace) -> None:
    """Print the YAML."""
    print(find(options.recipe, Plugins()).text, end="")
