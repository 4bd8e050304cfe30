"""Two small classifiers made of ordinary `torch.nn` layers."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

__all__ = ["MLP", "ConvNet"]


class MLP(nn.Module):
    """A multilayer perceptron: `hidden` (Linear and ReLU per width), then the Linear `classifier`.

    Args:
        inputs: number of values in one example, all its axes multiplied; at least 1.
        widths: number of features of each hidden layer, in order; none gives a linear classifier.
        classes: number of classes; at least 1.
    """

    def __init__(self, inputs: int, widths: Sequence[int], classes: int) -> None:
        super().__init__()
        sizes = [inputs, *widths]
        layers = [layer for before, after in pairwise(sizes) for layer in (nn.Linear(before, after), nn.ReLU())]
        self.hidden = nn.Sequential(*layers)
        self.classifier = nn.Linear(sizes[-1], classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits (N, classes) of a float batch (N, ...) with `inputs` values per example."""
        logits: Tensor = self.classifier(self.hidden(images.flatten(start_dim=1)))
        return logits


class ConvNet(nn.Module):
    """A convolutional network: `blocks` (conv 3x3, norm, ReLU), global average pooling, Linear `classifier`.

    Each of the first two blocks ends in a 2x2 max-pooling.

    Args:
        channels: number of channels of the images; at least 1.
        widths: number of channels of each block, in order; none gives a linear classifier of mean colours.
        classes: number of classes; at least 1.
    """

    def __init__(self, channels: int, widths: Sequence[int], classes: int) -> None:
        super().__init__()
        sizes = [channels, *widths]
        blocks = [_block(*pair, pool=position < 2) for position, pair in enumerate(pairwise(sizes))]
        self.blocks = nn.Sequential(*blocks)
        self.classifier = nn.Linear(sizes[-1], classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits (N, classes) of float images (N, channels, H, W), H and W at least 4."""
        logits: Tensor = self.classifier(self.blocks(images).mean(dim=(2, 3)))
        return logits


def _block(before: int, after: int, *, pool: bool) -> nn.Sequential:
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        # The norm that follows has a bias of its own.
        conv=nn.Conv2d(before, after, kernel_size=3, padding=1, bias=False),
        norm=nn.BatchNorm2d(after),
        relu=nn.ReLU(),
    )
    if pool:
        layers["pool"] = nn.MaxPool2d(2)
    return nn.Sequential(layers)
