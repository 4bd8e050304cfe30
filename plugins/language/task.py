"""The Lightning task: train any network to predict the next character, with cross entropy."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from growkit_plugins.common import Task

__all__ = ["LanguageModel"]


class LanguageModel(Task):
    """Trains a network to predict the next character, and logs `{train,val,test}_loss` in nats per character.

    The network maps characters (N, T), int64, to logits (N, T, vocabulary); batches are characters and the ones that
    follow them, both (N, T). Its arguments are those of `Task`.
    """

    def measure(self, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        """Return the mean cross entropy, a scalar."""
        characters, following = batch
        return {"loss": F.cross_entropy(self(characters).flatten(0, 1), following.flatten())}
