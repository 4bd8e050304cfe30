"""Two data sets of small grey images, held in memory as normalised float tensors."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from growkit import RecipeError

from .idx import read_idx
from .sources import fashion_mnist_files, optional

__all__ = ["Digits", "FashionMNIST", "TensorBatches"]

# The mean and the standard deviation of all pixels of the 60,000 training images, scaled to [0, 1].
_FASHION_MEAN, _FASHION_STD = 0.2860, 0.3530


class TensorBatches(TensorDataset):
    """A `TensorDataset` that gives whole batches at once, which is several times as fast as image by image.

    A `DataLoader` over it needs `collate_fn=TensorBatches.collate`, because its batches need no collation.
    """

    def __getitems__(self, indices: list[int]) -> tuple[Tensor, ...]:
        chosen = torch.tensor(indices)
        return tuple(tensor[chosen] for tensor in self.tensors)

    @staticmethod
    def collate(batch: Sequence[Tensor]) -> Sequence[Tensor]:
        """Return `batch` as it is."""
        return batch


class Digits(pl.LightningDataModule):
    """The 1,797 handwritten digits of scikit-learn: 1,257 to train, 540 to validate, with equal class shares.

    Batches are images (N, 1, 8, 8), float32 with mean 0 and standard deviation 1 over the training images,
    and labels (N,), int64 in 0 to 9.

    Args:
        batch_size: number of images in a batch; at least 1.
        seed: chooses the split.
    """

    def __init__(self, batch_size: int = 64, seed: int = 0) -> None:
        super().__init__()
        self.batch_size = batch_size
        self.seed = seed

    def train_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        """Return shuffled batches of the training images."""
        return _loader(self._parts[0], self.batch_size, shuffle=True)

    def val_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        """Return batches of the validation images, in a fixed order."""
        return _loader(self._parts[1], self.batch_size)

    @cached_property
    def _parts(self) -> tuple[TensorBatches, TensorBatches]:
        pixels, labels = optional("sklearn.datasets").load_digits(return_X_y=True)
        split = optional("sklearn.model_selection").train_test_split
        arrays = split(pixels, labels, test_size=540, stratify=labels, random_state=self.seed)
        train, val, train_labels, val_labels = map(torch.from_numpy, arrays)
        mean, std = train.mean(), train.std()
        train, val = (((part - mean) / std).float().view(-1, 1, 8, 8) for part in (train, val))
        return TensorBatches(train, train_labels), TensorBatches(val, val_labels)


class FashionMNIST(pl.LightningDataModule):
    """Fashion-MNIST: 60,000 official training images, of which some are held out to validate, 10,000 to test.

    Batches are images (N, 1, 28, 28), float32 with mean 0 and standard deviation 1 over the official training
    images, and labels (N,), int64 in 0 to 9. Missing and broken files raise `RecipeError`.

    Args:
        root: folder with the files, directly or in FashionMNIST/raw, plain or `.gz`. None: the folder in the
            environment variable GROWKIT_DATA, else the user's cache, filled by one download of 31 MB.
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

    def prepare_data(self) -> None:
        """Download the files where that is needed; Lightning calls this in one process only."""
        fashion_mnist_files(self.root)

    def train_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        """Return shuffled batches of the training images that are not held out."""
        return _loader(self._parts[0], self.batch_size, shuffle=True)

    def val_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        """Return batches of the images that are held out, in a fixed order."""
        return _loader(self._parts[1], self.batch_size)

    def test_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        """Return batches of the official test images, in a fixed order."""
        return _loader(TensorBatches(*self._read("t10k")), self.batch_size)

    @cached_property
    def _parts(self) -> tuple[TensorBatches, TensorBatches]:
        images, labels = self._read("train")
        if not 0 < self.held_out < len(images) or (self.limit is not None and self.limit < 1):
            raise RecipeError(
                "FashionMNIST could not be split into training and validation images",
                seen=f"held_out={self.held_out}, limit={self.limit} for {len(images)} images",
                expected=f"held_out from 1 to {len(images) - 1}; limit at least 1, or None",
                advice="choose other values for the data of the recipe",
            )
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(self.seed))
        val, train = order[: self.held_out], order[self.held_out :][: self.limit]
        return TensorBatches(images[train], labels[train]), TensorBatches(images[val], labels[val])

    def _read(self, part: str) -> tuple[Tensor, Tensor]:
        files = fashion_mnist_files(self.root)
        pixels, labels = (read_idx(files[f"{part}-{kind}-ubyte"]) for kind in ("images-idx3", "labels-idx1"))
        if pixels.shape != (len(labels), 28, 28) or labels.ndim != 1:
            raise RecipeError(
                f"the images and labels in {files[f'{part}-images-idx3-ubyte'].parent} do not fit together",
                seen=f"images of the shape {pixels.shape}, labels of the shape {labels.shape}",
                expected="images (N, 28, 28) and labels (N,)",
                advice="replace the files by those of Fashion-MNIST",
            )
        images = torch.from_numpy(pixels).float().div_(255).sub_(_FASHION_MEAN).div_(_FASHION_STD)
        return images.unsqueeze(1), torch.from_numpy(labels).long()


def _loader(data: TensorBatches, batch_size: int, *, shuffle: bool = False) -> DataLoader[tuple[Tensor, ...]]:
    return DataLoader(data, batch_size, shuffle=shuffle, collate_fn=TensorBatches.collate)
