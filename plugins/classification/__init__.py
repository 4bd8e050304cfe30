"""Image classification for recipes: plain models, one Lightning task and four data sets.

The models hold ordinary `torch.nn` layers and know nothing of growkit; any other model may take their place.
"""

from __future__ import annotations

from .cifar import CIFAR10
from .data import MNIST, Digits, FashionMNIST
from .models import MLP, VGG, ConvNet, MobileNetV1
from .task import Classifier

__all__ = ["MLP", "VGG", "ConvNet", "MobileNetV1", "Classifier", "CIFAR10", "Digits", "FashionMNIST", "MNIST"]
