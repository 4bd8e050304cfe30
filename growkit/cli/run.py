"""Run a recipe: train, grow, compare, and leave a folder with the results.

Any setting of the recipe can be overridden: `--trainer.max_epochs 3`, `--data.root FOLDER`,
`--growth.plugins.0.init_args.fraction 0.2`.
"""

from __future__ import annotations

import argparse
import logging
from datetime import datetime
from pathlib import Path

from rich.console import Console
from rich.logging import RichHandler

from growkit.cli.comparison import Row, rows_of_comparisons, rows_of_run, show
from growkit.cli.console import output
from growkit.cli.folder import prepare, read_metrics
from growkit.cli.parser import RecipeCLI, build, quiet
from growkit.cli.picture import draw
from growkit.cli.recipes import find
from growkit.lightning.checkpoint import read
from growkit.plugins import Plugins

__all__ = ["TAKES_OVERRIDES", "add_arguments", "command"]

TAKES_OVERRIDES = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the recipe, the folder and the checkpoint to resume from."""
    parser.add_argument("recipe", help="name of a recipe, or a YAML file")
    parser.add_argument("--folder", type=Path, help="where to leave the results; default runs/RECIPE-DATE-TIME")
    parser.add_argument("--resume", type=Path, metavar="CHECKPOINT", help="go on from this checkpoint of the recipe")


def command(options: argparse.Namespace) -> None:
    """Train, compare, and print the closing table."""
    recipe = find(options.recipe, Plugins())
    if options.resume is not None:
        read(options.resume)  # before anything is built
    folder = options.folder or Path("runs") / f"{recipe.name}-{datetime.now():%Y%m%d-%H%M%S}"
    console = output()
    _log_to(console)
    cli = build(recipe, options.overrides, prepare(folder, resuming=options.resume is not None))
    cli.parser.save(cli.config, folder / "recipe.yaml", overwrite=True, skip_check=True)
    with quiet():
        cli.trainer.fit(cli.model, cli.datamodule, ckpt_path=options.resume, weights_only=True)
        rows = _rows(cli, folder, console)
    show(rows, console)
    draw(folder, cli.growth.journal, folder / "growth.png")
    console.print(f"results in {folder}: " + ", ".join(sorted(path.name for path in folder.iterdir())))


def _rows(cli: RecipeCLI, folder: Path, console: Console) -> list[Row]:
    rows = rows_of_run(cli, read_metrics(folder))
    return [*rows, *rows_of_comparisons(cli, console)]


def _log_to(console: Console) -> None:
    """Show what growkit does."""
    logger = logging.getLogger("growkit")
    logger.setLevel(logging.INFO)
    logger.handlers = [RichHandler(console=console, show_path=False, show_level=False, show_time=False)]
    logger.propagate = False
