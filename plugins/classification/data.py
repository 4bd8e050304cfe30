"""Sets of small grey images, held in memory as normalised float tensors."""

from __future__ import annotations

from functools import cached_property

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from growkit import RecipeError
from growkit_plugins.common import Source, TensorBatches, batches_of, optional

from .idx import read_idx
from .official import OfficialImages, Part
from .sources import fashion_mnist_source, mnist_source

__all__ = ["MNIST", "Digits", "FashionMNIST"]


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
        return batches_of(self._parts[0], self.batch_size, shuffle=True)

    def val_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        """Return batches of the validation images, in a fixed order."""
        return batches_of(self._parts[1], self.batch_size)

    @cached_property
    def _parts(self) -> tuple[TensorBatches, TensorBatches]:
        pixels, labels = optional("sklearn.datasets").load_digits(return_X_y=True)
        split = optional("sklearn.model_selection").train_test_split
        arrays = split(pixels, labels, test_size=540, stratify=labels, random_state=self.seed)
        train, val, train_labels, val_labels = map(torch.from_numpy, arrays)
        mean, std = train.mean(), train.std()
        train, val = (((part - mean) / std).float().view(-1, 1, 8, 8) for part in (train, val))
        return TensorBatches(train, train_labels), TensorBatches(val, val_labels)


class _IdxImages(OfficialImages):
    """Images and labels in the idx format.

    Attributes:
        mean: of all pixels of the official training images, scaled to [0, 1].
        std: their standard deviation.
    """

    mean: float
    std: float

    def read(self, part: Part) -> tuple[Tensor, Tensor]:
        """Return all images and labels of a part, normalised."""
        files, stem = self.source().find(self.root), {"train": "train", "test": "t10k"}[part]
        pixels, labels = (read_idx(files[f"{stem}-{kind}"]) for kind in ("images-idx3-ubyte", "labels-idx1-ubyte"))
        if pixels.shape[1:] != (28, 28) or labels.shape != pixels.shape[:1]:
            raise RecipeError(
                f"the images and labels in {files[f'{stem}-images-idx3-ubyte'].parent} do not fit together",
                seen=f"images of the shape {pixels.shape}, labels of the shape {labels.shape}",
                expected="images (N, 28, 28) and labels (N,)",
                advice=f"replace the files by those of {self.source().title}",
            )
        images = torch.from_numpy(pixels).float().div_(255).sub_(self.mean).div_(self.std)
        return images.unsqueeze(1), torch.from_numpy(labels).long()


class FashionMNIST(_IdxImages):
    """Fashion-MNIST: 60,000 official training images, of which some are held out to validate, 10,000 to test.

    Batches are images (N, 1, 28, 28), float32 with mean 0 and standard deviation 1 over the official training
    images, and labels (N,), int64 in 0 to 9. The files lie in the folder directly or in FashionMNIST/raw, plain or
    `.gz`; 31 MB to download. Arguments and errors: see `OfficialImages`.
    """

    mean, std = 0.2860, 0.3530

    @staticmethod
    def source() -> Source:
        """Return where the files are."""
        return fashion_mnist_source()


class MNIST(_IdxImages):
    """MNIST: 60,000 official training images, of which some are held out to validate, 10,000 to test.

    Batches are images (N, 1, 28, 28), float32 with mean 0 and standard deviation 1 over the official training
    images, and labels (N,), int64 in 0 to 9. The files lie in MNIST/raw, plain or `.gz`; 12 MB to download.
    Arguments and errors: see `OfficialImages`.
    """

    mean, std = 0.1307, 0.3081

    @staticmethod
    def source() -> Source:
        """Return where the files are."""
        return mnist_source()
