"""Splitting steepest descent: split the neurons whose two halves descend fastest, in the direction in which they do.

Source: Wu, Wang and Liu, "Splitting Steepest Descent for Growing Neural Architectures" (2019), arXiv:1910.02366.
"""

import growkit
from growkit_plugins.splitting.eigen import smallest_eigenpairs
from growkit_plugins.splitting.neurons import Neurons, find_neurons, splitting_indices, splitting_matrices
from growkit_plugins.splitting.plugin import Splitting

__all__ = ["Neurons", "Splitting", "find_neurons", "smallest_eigenpairs", "splitting_indices", "splitting_matrices"]


@growkit.hookimpl
def growkit_plugin_classes() -> list[type[growkit.Plugin]]:
    """Offer `Splitting` to recipes."""
    return [Splitting]
