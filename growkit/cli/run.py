"""Run a recipe: train, grow, compare, and leave a folder with the results.

Any setting of the recipe can be overridden: `--trainer.max_epochs 3`, `--data.root FOLDER`,
`--growth.plugins.init_args.fraction 0.2`.
"""

from __future__ import annotations

import argparse
import logging
from datetime import datetime
from pathlib import Path

from pytorch_lightning.callbacks import Callback
from rich.console import Console
from rich.logging import RichHandler

from growkit.cli.comparison import Row, rows_of_comparisons, rows_of_run, show
from growkit.cli.console import output
from growkit.cli.folder import JournalFile, check, read_metrics, untouched_until
from growkit.cli.parser import RecipeCLI, build, cannot, quiet
from growkit.cli.picture import draw
from growkit.cli.recipes import Recipe, find
from growkit.errors import CheckpointError, GrowkitError, RecipeError
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
        read(options.resume)
    folder = options.folder or Path("runs") / f"{recipe.name}-{datetime.now():%Y%m%d-%H%M%S}"
    check(folder, options.resume)
    console = output()
    _log_to(console)
    cli = build(recipe, options.overrides, folder)
    if cli.trainer.world_size > 1:
        raise RecipeError(
            f"recipe {recipe.name!r} asks for {cli.trainer.world_size} processes",
            seen=f"trainer.devices and num_nodes make {cli.trainer.world_size}",
            expected="one process",
            advice="set trainer.devices to 1",
        )
    with quiet():
        _fit(cli, recipe, folder, options.resume)
        draw(folder, cli.growth.journal, folder / "growth.png")
        rows = _rows(cli, folder, console)
    show(rows, console)
    console.print(f"results in {folder}: " + ", ".join(sorted(path.name for path in folder.iterdir())))


def _fit(cli: RecipeCLI, recipe: Recipe, folder: Path, checkpoint: Path | None) -> None:
    """Train; what fails before the first step is a mistake in the recipe or the checkpoint, and leaves no trace."""
    callbacks: list[Callback] = cli.trainer.callbacks  # type: ignore[attr-defined]
    (keeper,) = (callback for callback in callbacks if isinstance(callback, JournalFile))
    with untouched_until(lambda: keeper.begun, folder):
        cli.parser.save(cli.config, folder / "recipe.yaml", overwrite=True, skip_check=True)
        try:
            cli.trainer.fit(cli.model, cli.datamodule, ckpt_path=checkpoint, weights_only=True)
        except SystemExit as error:
            if cli.trainer.interrupted:  # which is how Lightning passes on Ctrl-C
                raise KeyboardInterrupt from error
            raise
        except GrowkitError:
            raise
        except Exception as error:
            if keeper.begun:
                raise
            raise _not_begun(recipe, checkpoint, error) from error
        if not keeper.begun:
            raise cannot(recipe, "be run", ValueError("training ended before its first step"))


def _not_begun(recipe: Recipe, checkpoint: Path | None, error: Exception) -> GrowkitError:
    if checkpoint is None:
        return cannot(recipe, "be run", error)
    return CheckpointError(
        f"cannot resume recipe {recipe.name!r} from {str(checkpoint)!r}",
        seen=" ".join(f"{type(error).__name__}: {error}".split()),
        expected="a checkpoint.ckpt from the folder of a run of this recipe, and more epochs than it has seen",
        advice="resume with the recipe.yaml beside the checkpoint",
    )


def _rows(cli: RecipeCLI, folder: Path, console: Console) -> list[Row]:
    rows = rows_of_run(cli, read_metrics(folder))
    return [*rows, *rows_of_comparisons(cli, console)]


def _log_to(console: Console) -> None:
    """Show what growkit does."""
    logger = logging.getLogger("growkit")
    logger.setLevel(logging.INFO)
    logger.handlers = [RichHandler(console=console, show_path=False, show_level=False, show_time=False)]
    logger.propagate = False
