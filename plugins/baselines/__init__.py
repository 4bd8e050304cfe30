"""Baselines: growth that does not look at the loss. What a method must beat."""

import growkit
from growkit_plugins.baselines.net2net import Net2Net
from growkit_plugins.baselines.random_units import RandomUnits

__all__ = ["Net2Net", "RandomUnits"]


@growkit.hookimpl
def growkit_plugin_classes() -> list[type[growkit.Plugin]]:
    """Offer `Net2Net` and `RandomUnits` to recipes."""
    return [Net2Net, RandomUnits]
