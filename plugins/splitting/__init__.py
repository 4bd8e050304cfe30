"""Splitting steepest descent: split the neurons whose two halves descend fastest, in the direction in which they do.

Source: Wu, Wang and Liu, "Splitting Steepest Descent for Growing Neural Architectures" (2019), arXiv:1910.02366.
"""

from growkit_plugins.splitting.eigen import smallest_eigenpairs
from growkit_plugins.splitting.neurons import Neurons, find_neurons, splitting_matrices
from growkit_plugins.splitting.plugin import Splitting

__all__ = ["Neurons", "Splitting", "find_neurons", "smallest_eigenpairs", "splitting_matrices"]
