"""Image classification for recipes: plain models, one Lightning task and two data sets.

The models hold ordinary `torch.nn` layers and know nothing of growkit; any other model may take their place.
"""

from __future__ import annotations

from .data import Digits, FashionMNIST
from .models import MLP, ConvNet
from .task import Classifier

__all__ = ["MLP", "ConvNet", "Classifier", "Digits", "FashionMNIST"]
