"""The recipes that come with growkit, offered through the hook that every plugin may use."""

from importlib.resources import files
from importlib.resources.abc import Traversable

import growkit


@growkit.hookimpl
def growkit_recipes() -> Traversable:
    """Return the folder of this package."""
    return files(__name__)
