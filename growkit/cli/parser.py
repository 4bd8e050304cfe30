"""Recipes are LightningCLI YAML; this is the LightningCLI that reads them, and what its errors mean."""

from __future__ import annotations

import os
import pkgutil
import re
import sys
import warnings
from argparse import ArgumentError
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from inspect import signature
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI

from growkit.cli.folder import callbacks, loggers
from growkit.cli.recipes import Recipe
from growkit.errors import RecipeError, suggestion
from growkit.lightning import Growth

__all__ = ["RecipeCLI", "build", "quiet"]

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
        return built["model"], built.get("data")

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
    """Read a recipe and build what it names: model, data, trainer, growth.

    Args:
        recipe: what to read.
        overrides: such as `["--trainer.max_epochs", "3"]`.
        folder: where the run leaves its files, or None to leave none.

    Raises:
        RecipeError: something in the recipe or the overrides cannot be read or built.
    """
    with quiet():
        try:
            return RecipeCLI(recipe.path, overrides, folder)
        except (ArgumentError, TypeError, ValueError, MisconfigurationException, ImportError) as error:
            raise _explain(recipe, error) from error


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


# ------------------------------------------------------------------ what jsonargparse's messages mean


def _explain(recipe: Recipe, error: Exception) -> RecipeError:
    """Turn a parser's message into one with what, seen, expected and what to do."""
    text = str(error)
    key, known = _unknown_key(text)
    where = f"recipe {recipe.name!r} ({recipe.path.name}, or an option on the command line)"
    if key is not None:
        listed = ", ".join(sorted(known)) if len(known) <= _LISTED else f"the {len(known)} keys of that section"
        return RecipeError(
            f"{where} has a key that nothing takes",
            seen=key,
            expected=f"one of {listed}" if known else "a key that the section has",
            advice=suggestion(key.rpartition(".")[2], known, otherwise="`growkit cat first-growth` shows a recipe"),
        )
    return RecipeError(
        f"{where} cannot be built",
        seen=" ".join(text.split()),
        expected="values of the types that the named classes take",
        advice="`growkit cat first-growth` shows a recipe that works",
    )


def _unknown_key(text: str) -> tuple[str | None, set[str]]:
    """Return the key that a message complains of, and those that would be right."""
    if match := re.search(r"class_path '([\w.]+)':?\s+(?:Option|Key) '([\w.]+)' is not accepted", text):
        return match[2], set(signature(pkgutil.resolve_name(match[1])).parameters)
    if match := re.search(r"Group '([\w.]+)' does not accept (?:option|nested key|key) '([\w.]+)'", text):
        return _first_unknown(f"{match[1]}.{match[2]}")
    if match := re.search(r"unrecognized arguments: --([\w.]+)", text) or re.search(
        r"(?:Key|Option|key|option) '([\w.]+)' is not (?:expected|accepted)", text
    ):
        return _first_unknown(match[1])
    return None, set()


def _first_unknown(key: str) -> tuple[str, set[str]]:
    """Cut a dotted key after its first part that is not known; return it with what that part could have been."""
    top = {"seed_everything", "model", "data", "trainer", "growth", "compare"}
    sections = {"growth": Growth, "trainer": pl.Trainer}
    first, _, rest = key.partition(".")
    if first not in top:
        return first, top
    known = set(signature(sections[first]).parameters) if first in sections else set()
    second = rest.partition(".")[0]
    return (f"{first}.{second}", known) if known and second not in known else (key, set())
