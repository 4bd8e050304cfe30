"""List the recipes."""

from __future__ import annotations

import argparse

from rich.table import Table

from growkit.cli.console import output
from growkit.cli.recipes import all_recipes
from growkit.plugins import Plugins

__all__ = ["add_arguments", "command"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """This verb takes none."""


def command(options: argparse.Namespace) -> None:
    """Print a line for each recipe."""
    table = Table(box=None, header_style="bold")
    for title in ("recipe", "what it does", "offered by"):
        table.add_column(title)
    for recipe in all_recipes(Plugins()).values():
        table.add_row(recipe.name, recipe.summary, recipe.plugin)
    output().print(table)
