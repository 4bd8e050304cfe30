"""A small decoder-only transformer made of ordinary `torch.nn` layers."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["CharTransformer"]


class CharTransformer(nn.Module):
    """A decoder-only transformer: pre-norm blocks of causal attention and an MLP with GELU, learned positions.

    Args:
        vocabulary: number of different characters; at least 1.
        block_size: number of characters that it can look back on, its own among them; at least 1.
        channels: size of the residual stream; a multiple of `heads`.
        heads: of each attention; at least 1.
        widths: number of hidden features of the MLP of each block, in order.

    Source: Radford et al. (2019), "Language Models are Unsupervised Multitask Learners", without dropout and with an
    output layer of its own.
    """

    def __init__(self, vocabulary: int, block_size: int, channels: int, heads: int, widths: Sequence[int]) -> None:
        super().__init__()
        if channels % heads:
            raise ValueError(f"CharTransformer takes channels in multiples of heads, not {channels} for {heads} heads")
        self.characters = nn.Embedding(vocabulary, channels)
        self.positions = nn.Embedding(block_size, channels)
        self.blocks = nn.Sequential(*(_Block(channels, heads, width) for width in widths))
        self.norm = nn.LayerNorm(channels)
        self.output = nn.Linear(channels, vocabulary)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the logits (N, T, vocabulary) of the character behind each of `tokens` (N, T), T <= block_size."""
        positions = torch.arange(tokens.shape[1], device=tokens.device)
        stream = self.blocks(self.characters(tokens) + self.positions(positions))
        logits: Tensor = self.output(self.norm(stream))
        return logits


class _Block(nn.Module):
    def __init__(self, channels: int, heads: int, width: int) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(channels)
        self.attention = _Attention(channels, heads)
        self.mlp_norm = nn.LayerNorm(channels)
        self.mlp = nn.Sequential(
            OrderedDict(hidden=nn.Linear(channels, width), gelu=nn.GELU(), output=nn.Linear(width, channels))
        )

    def forward(self, stream: Tensor) -> Tensor:
        stream = stream + self.attention(self.attention_norm(stream))
        result: Tensor = stream + self.mlp(self.mlp_norm(stream))
        return result


class _Attention(nn.Module):
    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.inputs = nn.Linear(channels, 3 * channels)
        self.output = nn.Linear(channels, channels)

    def forward(self, stream: Tensor) -> Tensor:
        parts = self.inputs(stream).chunk(3, dim=-1)
        query, key, value = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        result: Tensor = self.output(mixed.transpose(1, 2).flatten(2))
        return result
