"""The one-dimensional toy problem of splitting steepest descent: sums of radial basis functions."""

from __future__ import annotations

from .data import RBFTeacher
from .models import RBFNetwork
from .task import Regressor

__all__ = ["RBFNetwork", "RBFTeacher", "Regressor"]
