"""List the installed plugins, the hooks they implement and the classes they offer."""

from __future__ import annotations

import argparse

from rich.table import Table

from growkit.cli.console import output
from growkit.cli.recipes import offered_classes
from growkit.plugins import Plugins

__all__ = ["add_arguments", "command"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """This verb takes none."""


def command(options: argparse.Namespace) -> None:
    """Print a line for each plugin."""
    plugins = Plugins()
    classes = {name: [cls.__name__ for cls in offered] for name, offered in offered_classes(plugins).items()}
    table = Table(box=None, header_style="bold")
    for title in ("plugin", "distribution", "hooks", "offers"):
        table.add_column(title)
    for info in plugins:
        table.add_row(info.name, info.distribution, ", ".join(info.hooks), ", ".join(classes.get(info.name, ())))
    output().print(table)
