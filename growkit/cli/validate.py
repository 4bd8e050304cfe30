"""Check a recipe: read it, build everything it names, train nothing."""

from __future__ import annotations

import argparse

from growkit.cli.parser import build
from growkit.cli.recipes import find
from growkit.plugins import Plugins

__all__ = ["TAKES_OVERRIDES", "add_arguments", "command"]

TAKES_OVERRIDES = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the recipe."""
    parser.add_argument("recipe", help="name of a recipe, or a YAML file")


def command(options: argparse.Namespace) -> None:
    """Build model, data, trainer and growth, and say that it worked."""
    recipe = find(options.recipe, Plugins())
    build(recipe, options.overrides, folder=None)
    print(f"{recipe.name}: valid")
