"""Where recipes are found: in the folders that plugins offer, or as a file."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import as_file
from pathlib import Path

from growkit.errors import RecipeError, suggestion
from growkit.plugins import Plugins

__all__ = ["Recipe", "all_recipes", "find"]


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
        return self.path.read_text(encoding="utf-8")

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
        for file in sorted(folder.iterdir(), key=lambda file: file.name):
            if not file.name.endswith(".yaml"):
                continue
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


def find(name: str, plugins: Plugins) -> Recipe:
    """Return a recipe by name, or by the path of a file that ends in .yaml.

    Raises:
        RecipeError: there is none.
    """
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
