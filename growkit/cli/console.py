"""Where the command line prints."""

from __future__ import annotations

from rich.console import Console

__all__ = ["output"]


def output() -> Console:
    """Return the console; one that is no terminal is wide enough for tables."""
    console = Console()
    return console if console.is_terminal else Console(width=max(console.width, 160))
