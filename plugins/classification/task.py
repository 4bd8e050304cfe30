"""The Lightning task: train any network to classify, with cross entropy."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor
from torchmetrics.functional.classification import multiclass_accuracy

from growkit_plugins.common import Task

__all__ = ["Classifier"]


class Classifier(Task):
    """Trains a network to classify, and logs `{train,val,test}_loss` and `{train,val,test}_accuracy`.

    The network maps images to logits (N, classes); batches are images and their integer labels (N,). Losses are
    cross entropies in nats, accuracies lie in [0, 1]. Its arguments are those of `Task`.
    """

    def measure(self, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        """Return the loss and the accuracy, two scalars."""
        images, labels = batch
        logits = self(images)
        accuracy = multiclass_accuracy(logits, labels, logits.shape[1], average="micro")
        return {"loss": F.cross_entropy(logits, labels), "accuracy": accuracy}
