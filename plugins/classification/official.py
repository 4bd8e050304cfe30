"""What image sets with official training and test images have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cached_property
from typing import Literal

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from growkit import RecipeError
from growkit_plugins.common import Source, TensorBatches, batches_of

__all__ = ["OfficialImages", "Part"]

Part = Literal["train", "test"]


class OfficialImages(pl.LightningDataModule, ABC):
    """Official training images, of which some are held out to validate, and official test images.

    Missing and broken files raise `RecipeError`.

    Args:
        root: folder with the files. None: the folder in the environment variable GROWKIT_DATA, else the user's cache,
            filled by one download.
        batch_size: number of images in a batch; at least 1.
        held_out: number of training images that validate instead; at least 1.
        limit: train on so many of the remaining images only, at least 1; None trains on all.
        seed: chooses the images that are held out, and those within the limit.
    """

    def __init__(
        self,
        root: str | None = None,
        batch_size: int = 128,
        held_out: int = 5000,
        limit: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.root = root
        self.batch_size = batch_size
        self.held_out = held_out
        self.limit = limit
        self.seed = seed

    @staticmethod
    @abstractmethod
    def source() -> Source:
        """Return where the files are."""

    @abstractmethod
    def read(self, part: Part) -> tuple[Tensor, Tensor]:
        """Return all images (N, C, H, W) and labels (N,) of a part."""

    def pack(self, images: Tensor, labels: Tensor) -> TensorBatches:
        """Return a data set of images as `read` returns them."""
        return TensorBatches(images, labels)

    def prepare_data(self) -> None:
        """Download the files where that is needed; Lightning calls this in one process only."""
        self.source().find(self.root)

    def train_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        """Return shuffled batches of the training images that are not held out."""
        return batches_of(self.pack(*self.split[0]), self.batch_size, shuffle=True)

    def val_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        """Return batches of the images that are held out, in a fixed order."""
        return batches_of(self.pack(*self.split[1]), self.batch_size)

    def test_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        """Return batches of the official test images, in a fixed order."""
        return batches_of(self.pack(*self.read("test")), self.batch_size)

    @cached_property
    def split(self) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Images and labels to train on, images and labels that are held out."""
        images, labels = self.read("train")
        if not 0 < self.held_out < len(images) or (self.limit is not None and self.limit < 1):
            raise RecipeError(
                f"{type(self).__name__} could not be split into training and validation images",
                seen=f"held_out={self.held_out}, limit={self.limit} for {len(images)} images",
                expected=f"held_out from 1 to {len(images) - 1}; limit at least 1, or None",
                advice="choose other values for the data of the recipe",
            )
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(self.seed))
        val, train = order[: self.held_out], order[self.held_out :][: self.limit]
        return (images[train], labels[train]), (images[val], labels[val])
