"""Splitting steepest descent: split the neurons whose offspring descend fastest, in the directions in which they do.

Sources: Wu, Wang and Liu, "Splitting Steepest Descent for Growing Neural Architectures" (2019), arXiv:1910.02366; Wang,
Li, Wu, Chandra and Liu, "Energy-aware Neural Architecture Optimization with Fast Splitting Steepest Descent" (2019),
arXiv:1910.03103; Wu, Ye, Lei, Lee and Liu, "Steepest Descent Neural Architecture Optimization: Escaping Local Optimum
with Signed Neural Splitting" (2020), arXiv:2003.10392.
"""

import growkit
from growkit_plugins.splitting.eigen import Eigenpairs, smallest_eigenpairs
from growkit_plugins.splitting.indices import exact_eigenpairs, fast_eigenpairs
from growkit_plugins.splitting.matrices import SplittingMatrices
from growkit_plugins.splitting.neurons import Neurons, Rows
from growkit_plugins.splitting.plugin import Splitting
from growkit_plugins.splitting.schemes import Scheme, schemes
from growkit_plugins.splitting.splits import Split, best_splits, candidates

__all__ = [
    "Eigenpairs",
    "Neurons",
    "Rows",
    "Scheme",
    "Split",
    "Splitting",
    "SplittingMatrices",
    "best_splits",
    "candidates",
    "exact_eigenpairs",
    "fast_eigenpairs",
    "schemes",
    "smallest_eigenpairs",
]


@growkit.hookimpl
def growkit_plugin_classes() -> list[type[growkit.Plugin]]:
    """Offer `Splitting` to recipes."""
    return [Splitting]
