"""Energy-aware selection: the largest gain that a budget of parameters, FLOPs or latency allows.

Source: Wang, Li, Wu, Chandra and Liu, "Energy-aware Neural Architecture Optimization with Fast Splitting Steepest
Descent" (2019), arXiv:1910.03103.
"""

import growkit
from growkit_plugins.knapsack.latency import added_seconds
from growkit_plugins.knapsack.limits import Limit, choose_within
from growkit_plugins.knapsack.plugin import Knapsack
from growkit_plugins.knapsack.solve import choose

__all__ = ["Knapsack", "Limit", "added_seconds", "choose", "choose_within"]


@growkit.hookimpl
def growkit_plugin_classes() -> list[type[growkit.Plugin]]:
    """Offer `Knapsack` to recipes."""
    return [Knapsack]
