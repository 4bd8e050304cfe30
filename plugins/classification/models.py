"""Classifiers made of ordinary `torch.nn` layers."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from itertools import chain, pairwise

from torch import Tensor, nn

__all__ = ["MLP", "VGG", "ConvNet", "MobileNetV1"]


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


class _Pooled(nn.Module):
    """Some `blocks`, global average pooling, and the Linear `classifier`."""

    def __init__(self, blocks: Sequence[nn.Module], channels: int, classes: int) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*blocks)
        self.classifier = nn.Linear(channels, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits (N, classes) of float images (N, channels, H, W)."""
        logits: Tensor = self.classifier(self.blocks(images).mean(dim=(2, 3)))
        return logits


class ConvNet(_Pooled):
    """A convolutional network: `blocks` (conv 3x3, norm, ReLU), global average pooling, Linear `classifier`.

    Each of the first two blocks ends in a 2x2 max-pooling, so images have at least 4x4 pixels.

    Args:
        channels: number of channels of the images; at least 1.
        widths: number of channels of each block, in order; none gives a linear classifier of mean colours.
        classes: number of classes; at least 1.
    """

    def __init__(self, channels: int, widths: Sequence[int], classes: int) -> None:
        sizes = [channels, *widths]
        blocks = [_block(*pair, pool=position < 2) for position, pair in enumerate(pairwise(sizes))]
        super().__init__(blocks, sizes[-1], classes)


class VGG(_Pooled):
    """VGG with batch norm: stages of `blocks` (conv 3x3, norm, ReLU), global average pooling, Linear `classifier`.

    Each stage ends in a 2x2 max-pooling, so images have at least 2^stages pixels a side.

    Args:
        channels: number of channels of the images; at least 1.
        widths: number of channels of each block of each stage, in order. VGG-19 is 64 64, 128 128, and then four
            times 256, four times 512, four times 512.
        classes: number of classes; at least 1.

    Source: Simonyan and Zisserman (2014), arXiv:1409.1556, configuration E; with batch norm and, as is usual for
    32x32 images, one Linear in place of three.
    """

    def __init__(self, channels: int, widths: Sequence[Sequence[int]], classes: int) -> None:
        sizes = [channels, *chain.from_iterable(widths)]
        last = [position == len(stage) for stage in widths for position in range(1, len(stage) + 1)]
        blocks = [_block(*pair, pool=pool) for pair, pool in zip(pairwise(sizes), last, strict=True)]
        super().__init__(blocks, sizes[-1], classes)


class MobileNetV1(_Pooled):
    """MobileNetV1 for 32x32 images: a conv 3x3, then `blocks` that are separable by depth, Linear `classifier`.

    A separable block is a depthwise conv 3x3 and a pointwise conv 1x1, each with norm and ReLU. The depthwise conv
    of blocks 2, 4, 6 and 12 has stride 2; block 0 is the first conv.

    Args:
        channels: number of channels of the images; at least 1.
        widths: number of output channels of each block, block 0 among them: at least one. The whole network is
            32 64 128 128 256 256, six times 512, 1024 1024.
        classes: number of classes; at least 1.

    Source: Howard et al. (2017), arXiv:1704.04861, with the strides that are usual for 32x32 images.
    """

    def __init__(self, channels: int, widths: Sequence[int], classes: int) -> None:
        first = _block(channels, widths[0], pool=False)
        separable = [
            _separable(*pair, stride=2 if number in (2, 4, 6, 12) else 1)
            for number, pair in enumerate(pairwise(widths), start=1)
        ]
        super().__init__([first, *separable], widths[-1], classes)


# The convolutions have no bias, because the norm that follows has one.


def _block(before: int, after: int, *, pool: bool) -> nn.Sequential:
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        conv=nn.Conv2d(before, after, kernel_size=3, padding=1, bias=False),
        norm=nn.BatchNorm2d(after),
        relu=nn.ReLU(),
    )
    if pool:
        layers["pool"] = nn.MaxPool2d(2)
    return nn.Sequential(layers)


def _separable(before: int, after: int, *, stride: int) -> nn.Sequential:
    return nn.Sequential(
        OrderedDict(
            depthwise=nn.Conv2d(before, before, kernel_size=3, stride=stride, padding=1, groups=before, bias=False),
            depthwise_norm=nn.BatchNorm2d(before),
            depthwise_relu=nn.ReLU(),
            pointwise=nn.Conv2d(before, after, kernel_size=1, bias=False),
            norm=nn.BatchNorm2d(after),
            relu=nn.ReLU(),
        )
    )
