"""Models to measure on, built from their usual configurations without any model library."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["ResNet18", "ResNet50", "ResNet152", "Transformer", "FreeHeadsTransformer", "example"]


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        self.shortcut = nn.Sequential()
        if stride != 1 or before != after:
            self.shortcut = nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output, (N, after, H / stride, W / stride)."""
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + self.shortcut(x))


class ResNet18(nn.Module):
    """ResNet-18 for ImageNet: 11.7 million parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1)
        )
        widths = [64, 64, 128, 256, 512]
        blocks = []
        for stage in range(4):
            blocks.append(BasicBlock(widths[stage], widths[stage + 1], 1 if stage == 0 else 2))
            blocks.append(BasicBlock(widths[stage + 1], widths[stage + 1], 1))
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(512, 1000)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (N, 1000) of images (N, 3, H, W)."""
        return self.head(self.blocks(self.stem(images)).mean((2, 3)))


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions, the middle one a quarter as wide, with a shortcut."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        middle = after // 4
        self.conv1 = nn.Conv2d(before, middle, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(middle)
        self.conv2 = nn.Conv2d(middle, middle, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(middle)
        self.conv3 = nn.Conv2d(middle, after, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(after)
        self.shortcut = nn.Sequential()
        if stride != 1 or before != after:
            self.shortcut = nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output, (N, after, H / stride, W / stride)."""
        y = F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))
        return F.relu(self.bn3(self.conv3(y)) + self.shortcut(x))


class BottleneckResNet(nn.Module):
    """A residual network of bottlenecks for ImageNet, with the stride in the 3x3 convolutions.

    Args:
        depths: number of blocks in each of the four stages.
    """

    def __init__(self, depths: Sequence[int]) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1)
        )
        blocks: list[nn.Module] = []
        before = 64
        for stage, depth in enumerate(depths):
            after = 256 * 2**stage
            for index in range(depth):
                blocks.append(Bottleneck(before, after, 2 if stage and not index else 1))
                before = after
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(before, 1000)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (N, 1000) of images (N, 3, H, W)."""
        return self.head(self.blocks(self.stem(images)).mean((2, 3)))


class ResNet50(BottleneckResNet):
    """ResNet-50 for ImageNet: 25.6 million parameters."""

    def __init__(self) -> None:
        super().__init__((3, 4, 6, 3))


class ResNet152(BottleneckResNet):
    """ResNet-152 for ImageNet: 60.2 million parameters."""

    def __init__(self) -> None:
        super().__init__((3, 8, 36, 3))


class TransformerBlock(nn.Module):
    """Pre-norm attention and MLP."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output, same shape as the input (N, T, width)."""
        n, t, width = x.shape
        q, k, v = (
            y.view(n, t, self.heads, width // self.heads).transpose(1, 2)
            for y in self.qkv(self.norm1(x)).chunk(3, dim=-1)
        )
        x = x + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, t, width))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class FreeHeadsBlock(TransformerBlock):
    """The same block, whose heads may take up more or less than the width of the stream."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output, same shape as the input (N, T, width)."""
        n, t, _ = x.shape
        q, k, v = (y.view(n, t, self.heads, -1).transpose(1, 2) for y in self.qkv(self.norm1(x)).chunk(3, dim=-1))
        x = x + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, t, -1))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class Transformer(nn.Module):
    """A decoder-sized stack: 12 layers, 768 wide, 12 heads, 3072 hidden; 85 million parameters beside the embedding."""

    block: type[TransformerBlock] = TransformerBlock

    def __init__(self, layers: int = 12, width: int = 768, heads: int = 12, vocabulary: int = 1000) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.blocks = nn.Sequential(*(self.block(width, heads) for _ in range(layers)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return logits (N, T, vocabulary) of tokens (N, T)."""
        return self.head(self.norm(self.blocks(self.embedding(tokens))))


class FreeHeadsTransformer(Transformer):
    """The same stack with free heads, so that their number and size can grow, too."""

    block = FreeHeadsBlock


def example(model: nn.Module, images: Sequence[int] = (2, 64)) -> tuple[Tensor]:
    """Return inputs for a model of this file: two sequences of 64 tokens, or so many images of a side."""
    number, side = images
    generator = torch.Generator().manual_seed(0)
    if isinstance(model, Transformer):
        return (torch.randint(model.embedding.num_embeddings, (2, 64), generator=generator),)
    return (torch.randn(number, 3, side, side, generator=generator),)
