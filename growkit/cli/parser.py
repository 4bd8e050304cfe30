"""Recipes are LightningCLI YAML; this is the LightningCLI that reads them, and what its errors mean."""

from __future__ import annotations

import os
import sys
import warnings
from argparse import ArgumentError
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
import yaml
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI

from growkit.cli.folder import callbacks, loggers
from growkit.cli.keys import unknown_keys
from growkit.cli.recipes import Recipe
from growkit.errors import GrowkitError, RecipeError, suggestion
from growkit.lightning import Growth

__all__ = ["RecipeCLI", "build", "cannot", "quiet"]

Comparison = Literal["start", "scratch"]

_LISTED = 12  # more names than that are no help in a message


class RecipeCLI(LightningCLI):
    """LightningCLI with the sections `growth` (the arguments of `growkit.Growth`) and `compare`.

    Args:
        recipe: the YAML file.
        overrides: such as `["--trainer.max_epochs", "3"]`.
        folder: where the run leaves its files, or None to leave none.
    """

    def __init__(self, recipe: Path, overrides: Sequence[str], folder: Path | None) -> None:
        self._folder = folder
        super().__init__(
            pl.LightningModule,
            pl.LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            run=False,
            args=["--config", str(recipe), *overrides],
            save_config_callback=None,
            parser_kwargs={"exit_on_error": False, "allow_abbrev": False},
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add what a recipe has beside model, data and trainer."""
        parser.add_lightning_class_args(Growth, "growth")
        parser.add_argument(
            "--compare",
            type=list[Comparison],
            default=[],
            help="train for comparison: the start network without growth, the final architecture from scratch",
        )

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        """Build the trainer; where the recipe names no logger, the run's folder takes the logs."""
        given = self.config_init["trainer"]
        if self._folder is None:
            return super().instantiate_trainer(logger=False, enable_checkpointing=False, **kwargs)
        if given.get("logger") in (None, True):
            kwargs["logger"] = loggers(self._folder)
        bar = given.get("enable_progress_bar") is not False and sys.stdout.isatty()
        kwargs.update(enable_progress_bar=bar, enable_model_summary=False)
        kwargs["callbacks"] = [*(given.get("callbacks") or []), *callbacks(self._folder, self.growth, bar=bar)]
        return super().instantiate_trainer(**kwargs)

    def comparison_trainer(self, max_steps: int) -> pl.Trainer:
        """Build a trainer like the recipe's that takes so many steps and leaves no trace."""
        given = {key: value for key, value in self.config_init["trainer"].items() if key != "callbacks"}
        quietly = dict(logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False)
        return pl.Trainer(**{**given, **quietly, "max_steps": max_steps})

    def fresh(self) -> tuple[pl.LightningModule, pl.LightningDataModule | None]:
        """Build model and data anew from the recipe, from the recipe's seed."""
        if isinstance(seed := self.config["seed_everything"], int):
            pl.seed_everything(seed, workers=True, verbose=False)
        built = self.parser.instantiate_classes(self.config)
        live, self.model = self.model, built["model"]
        self._add_configure_optimizers_method_to_model(None)  # of the section `optimizer`, if there is one
        fresh, self.model = self.model, live
        return fresh, built.get("data")

    @property
    def growth(self) -> Growth:
        """The callback that grows the model."""
        growth: Growth = self.config_init["growth"]
        return growth

    @property
    def compare(self) -> list[Comparison]:
        """The comparisons asked for."""
        return list(self.config["compare"])


def build(recipe: Recipe, overrides: Sequence[str], folder: Path | None) -> RecipeCLI:
    """Read a recipe and build what it names: model, data, trainer, growth. No file is written.

    Args:
        recipe: what to read.
        overrides: such as `["--trainer.max_epochs", "3"]`.
        folder: where the run will leave its files, or None to leave none.

    Raises:
        RecipeError: something in the recipe or the overrides cannot be read or built.
    """
    _check_keys(recipe, overrides)
    with quiet():
        try:
            return RecipeCLI(recipe.path, overrides, folder)
        except GrowkitError:
            raise
        except Exception as error:  # whatever the constructors of the named classes raise
            raise cannot(recipe, "be built", error) from error


def cannot(recipe: Recipe, do: str, error: BaseException) -> RecipeError:
    """Return the error for a recipe that cannot be built or begun, because of something that was raised."""
    text = str(error) if isinstance(error, (ArgumentError, ValueError)) else f"{type(error).__name__}: {error}"
    return RecipeError(
        f"recipe {recipe.name!r} ({recipe.path.name}, or an option on the command line) cannot {do}",
        seen=" ".join(text.split()) or type(error).__name__,
        expected="values that the named classes take",
        advice="`growkit cat first-growth` shows a recipe that works; GROWKIT_TRACEBACK=1 shows where it was raised",
    )


def _check_keys(recipe: Recipe, overrides: Sequence[str]) -> None:
    try:
        content = yaml.safe_load(recipe.text)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise cannot(recipe, "be read", error) from error
    if not isinstance(content, dict):
        raise cannot(recipe, "be read", ValueError(f"a {type(content).__name__} instead of sections"))
    for key, known, owner in unknown_keys(content, overrides):
        listed = ", ".join(sorted(known)) if len(known) <= _LISTED else f"the {len(known)} keys of that section"
        raise RecipeError(
            f"recipe {recipe.name!r} ({recipe.path.name}, or an option on the command line) has a key nothing takes",
            seen=f"{key}, of {owner}" if owner else key,
            expected=f"one of {listed}",
            advice=suggestion(key.rpartition(".")[2], known, otherwise="`growkit cat first-growth` shows a recipe"),
        )


@contextmanager
def quiet() -> Iterator[None]:
    """Silence warnings that are none of a user's business: how growkit calls Lightning, and Lightning torch."""
    os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")
    with warnings.catch_warnings():
        for message in (
            ".*LightningCLI's args parameter is intended.*",
            ".*LeafSpec.*is deprecated.*",
            ".*does not have many workers.*",
            ".*exists and is not empty.*",
            ".*smaller than the logging interval.*",
        ):
            warnings.filterwarnings("ignore", message)
        yield
