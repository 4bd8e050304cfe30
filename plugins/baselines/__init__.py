"""Baselines: growth that does not look at the loss. What a method must beat."""

from growkit_plugins.baselines.net2net import Net2Net
from growkit_plugins.baselines.random_units import RandomUnits

__all__ = ["Net2Net", "RandomUnits"]
