"""Baselines: growth that does not look at the loss. What a method must beat."""

import growkit
from growkit_plugins.baselines.net2net import Net2Net
from growkit_plugins.baselines.random_split import RandomSplit
from growkit_plugins.baselines.random_units import RandomUnits

__all__ = ["Net2Net", "RandomSplit", "RandomUnits"]


@growkit.hookimpl
def growkit_plugin_classes() -> list[type[growkit.Plugin]]:
    """Offer `Net2Net`, `RandomSplit` and `RandomUnits` to recipes."""
    return [Net2Net, RandomSplit, RandomUnits]
