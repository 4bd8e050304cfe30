"""Where recipes are found: in the folders that plugins offer, or as a file."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import as_file
from pathlib import Path
from typing import Any

from growkit.errors import PluginError, RecipeError, suggestion
from growkit.plugins import Plugin, Plugins

__all__ = ["Recipe", "all_recipes", "find", "offered_classes"]


@dataclass(frozen=True)
class Recipe:
    """A recipe that can be run.

    Attributes:
        name: as on the command line.
        path: the YAML file.
        plugin: which plugin offers it; "" for a plain file.
    """

    name: str
    path: Path
    plugin: str = ""

    @property
    def text(self) -> str:
        """The YAML."""
        try:
            return self.path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise RecipeError(
                f"cannot read the recipe {str(self.path)!r}",
                seen=str(error),
                expected="a text file in UTF-8",
                advice="check the path",
            ) from error

    @property
    def summary(self) -> str:
        """What it does: the first line of its opening comment."""
        first = self.text.partition("\n")[0].lstrip("# ").strip()
        return first.partition(": ")[2] or first


def all_recipes(plugins: Plugins) -> dict[str, Recipe]:
    """Return every recipe that a plugin offers, by name.

    Raises:
        RecipeError: two plugins offer recipes of one name.
    """
    recipes: dict[str, Recipe] = {}
    for plugin, folder in plugins.call("growkit_recipes"):
        for file in _yaml_files(folder, plugins.describe(plugin)):
            with as_file(file) as path:
                recipe = Recipe(file.name.removesuffix(".yaml"), Path(path), plugin)
            if recipe.name in recipes:
                raise RecipeError(
                    f"two recipes are called {recipe.name!r}",
                    seen=f"one of {plugins.describe(plugin)}, one of {plugins.describe(recipes[recipe.name].plugin)}",
                    expected="distinct names",
                    advice="name the file you mean by its path, or uninstall one of the packages",
                )
            recipes[recipe.name] = recipe
    return recipes


def offered_classes(plugins: Plugins) -> dict[str, list[type[Plugin]]]:
    """Return the classes that each plugin offers; asking imports them, so that recipes may name them.

    Raises:
        PluginError: a plugin offers something else.
    """
    offered = {}
    for plugin, classes in plugins.call("growkit_plugin_classes"):
        if not isinstance(classes, (list, tuple)) or not all(
            isinstance(c, type) and issubclass(c, Plugin) for c in classes
        ):
            raise PluginError(
                f"{plugins.describe(plugin)} offers no plugin classes",
                seen=f"growkit_plugin_classes returned {classes!r}",
                expected="a list of subclasses of growkit.Plugin",
                advice="repair or uninstall that package",
            )
        offered[plugin] = list(classes)
    return offered


def _yaml_files(folder: Any, plugin: str) -> list[Any]:
    try:
        return sorted((file for file in folder.iterdir() if file.name.endswith(".yaml")), key=lambda file: file.name)
    except (OSError, AttributeError, TypeError) as error:
        raise PluginError(
            f"{plugin} offers no folder of recipes",
            seen=f"growkit_recipes returned {folder!r} ({error})",
            expected="the path of a folder, or importlib.resources.files(...)",
            advice="repair or uninstall that package",
        ) from error


def find(name: str, plugins: Plugins) -> Recipe:
    """Return a recipe by name, or by the path of a file that ends in .yaml.

    Raises:
        RecipeError: there is none.
    """
    offered_classes(plugins)  # recipes may name them
    path = Path(name)
    if path.suffix in {".yaml", ".yml"} and path.is_file():
        return Recipe(path.stem, path)
    recipes = all_recipes(plugins)
    if name not in recipes:
        raise RecipeError(
            f"there is no recipe {name!r}",
            seen=name,
            expected=f"one of {', '.join(recipes)}, or a file that ends in .yaml",
            advice=suggestion(name, recipes, otherwise="`growkit ls` lists the recipes"),
        )
    return recipes[name]
