"""`growkit`: the argument parser and the exit codes."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence

from growkit.errors import GrowkitError

__all__ = ["main"]

_EXAMPLES = """examples:
  growkit ls                                   what recipes there are
  growkit run first-growth                     watch a small network grow
  growkit run first-growth --trainer.max_epochs 20 --growth.plugins.init_args.fraction 0.2
  growkit cp first-growth mine.yaml            start a recipe of your own
  growkit export runs/mine/checkpoint.ckpt model.pt2
                                               a plain model that loads without growkit
  growkit inspect torch.nn:Identity --input 2,3
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: without the program's name; those of the process if None.

    Returns:
        The exit code: 0, or 1 after an error that was explained on standard error (2 for wrong usage, from argparse).
    """
    from growkit.cli import cat, cp, export, inspect, ls, plugins, run, validate

    parser = argparse.ArgumentParser(
        prog="growkit",
        description="Grow neural networks while they train.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for verb in (ls, cat, cp, validate, run, export, inspect, plugins):
        name = verb.__name__.rpartition(".")[2]
        description = (verb.__doc__ or "").partition("\n")[0]
        added = verbs.add_parser(name, help=description, description=verb.__doc__, allow_abbrev=False)
        added.set_defaults(command=verb.command, takes_overrides=getattr(verb, "TAKES_OVERRIDES", False))
        verb.add_arguments(added)
    options, overrides = parser.parse_known_args(arguments)
    if overrides and not options.takes_overrides:
        parser.error(f"unrecognized arguments: {' '.join(overrides)}")
    options.overrides = overrides
    for name in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    try:
        options.command(options)
    except GrowkitError as error:
        if os.environ.get("GROWKIT_TRACEBACK"):
            raise
        print(f"growkit: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("growkit: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader went away: `growkit cat x | head`
        return 0
    return 0
