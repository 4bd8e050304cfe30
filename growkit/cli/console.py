"""Where the command line prints."""

from __future__ import annotations

from rich.console import Console

__all__ = ["output"]


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Leave it to `main` what happens when the reader has gone away."""
        raise BrokenPipeError


def output() -> Console:
    """Return the console; one that is no terminal is wide enough for tables."""
    console = _Console()
    return console if console.is_terminal else _Console(width=max(console.width, 160))
