"""CIFAR-10: small colour photographs, cropped and flipped at random while training."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from growkit import RecipeError
from growkit_plugins.common import Source, TensorBatches, batches_of

from .official import OfficialImages, Part
from .pickles import read_pickle
from .sources import cifar10_source

__all__ = ["CIFAR10"]

_SIZE, _PAD = 32, 4

# Of each channel of the 50,000 training images, scaled to [0, 1].
_MEAN = torch.tensor([0.4914, 0.4822, 0.4465]).view(3, 1, 1)
_STD = torch.tensor([0.2470, 0.2435, 0.2616]).view(3, 1, 1)


class CIFAR10(OfficialImages):
    """CIFAR-10: 50,000 official training images, of which some are held out to validate, 10,000 to test.

    Batches are images (N, 3, 32, 32), float32 with mean 0 and standard deviation 1 in each channel over the official
    training images, and labels (N,), int64 in 0 to 9. Training images are padded by 4 black pixels a side, cropped at
    random and flipped at random. The files lie in the folder directly, in cifar-10-batches-py (the python version),
    or in cifar-10-batches-bin (the binary version); 170 MB to download. Arguments and errors: see `OfficialImages`.

    Memory: 180 MB.
    """

    @staticmethod
    def source() -> Source:
        """Return where the files are."""
        return cifar10_source()

    def read(self, part: Part) -> tuple[Tensor, Tensor]:
        """Return all images of a part, uint8, and their labels."""
        files = self.source().find(self.root)
        batches = [_read_batch(path) for name, path in files.items() if name.startswith("test") == (part == "test")]
        images, labels = (torch.from_numpy(np.concatenate(arrays)) for arrays in zip(*batches, strict=True))
        return images, labels.long()

    def pack(self, images: Tensor, labels: Tensor) -> TensorBatches:
        """Return a data set of images as `read` returns them."""
        return _Normalised(images, labels)

    def train_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        """Return shuffled batches of the training images that are not held out, cropped and flipped at random."""
        images, labels = self.split[0]
        return batches_of(_Augmented(images, labels), self.batch_size, sampler=_Views(len(images)))


class _Normalised(TensorBatches):
    """Images that are kept as bytes, a quarter of the memory, and normalised as they are taken."""

    def __getitems__(self, indices: list[int]) -> tuple[Tensor, ...]:
        images, labels = super().__getitems__(indices)
        return _normalised(images), labels


class _Views(Sampler[list[int]]):
    """Takes every image once an epoch, in random order: (index, rows down, columns right, whether to flip).

    Crops and flips are drawn from torch's generator together with the order, before the first batch. So what a batch
    holds does not depend on what else draws random numbers on the way, and a resumed epoch goes on with the same ones.
    """

    def __init__(self, count: int) -> None:
        super().__init__()
        self._count = count

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[list[int]]:
        order = torch.randperm(self._count)
        corners = torch.randint(2 * _PAD + 1, (self._count, 2))
        flips = torch.randint(2, (self._count,))
        yield from torch.column_stack([order, corners, flips]).tolist()


class _Augmented(TensorBatches):
    """Images as `_Views` says, normalised."""

    def __getitems__(self, indices: list[list[int]]) -> tuple[Tensor, ...]:
        index, down, right, flip = torch.tensor(indices).unbind(dim=1)
        images, labels = (tensor[index] for tensor in self.tensors)
        padded = F.pad(images, (_PAD, _PAD, _PAD, _PAD))
        along = torch.arange(_SIZE)
        rows = down[:, None] + along
        columns = right[:, None] + torch.where(flip[:, None] == 1, along.flip(0), along)
        image = torch.arange(len(index))[:, None, None, None]
        cropped = padded[image, torch.arange(3)[:, None, None], rows[:, None, :, None], columns[:, None, None, :]]
        return _normalised(cropped), labels


def _normalised(images: Tensor) -> Tensor:
    return images.float().div_(255).sub_(_MEAN).div_(_STD)


def _read_batch(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return images (N, 3, 32, 32) and labels (N,), both uint8, of one file of either version."""
    width = 3 * _SIZE**2
    try:
        if path.suffix == ".bin":  # a label and the pixels in turn
            records = np.frombuffer(path.read_bytes(), np.uint8).reshape(-1, 1 + width)
            pixels, labels = records[:, 1:], records[:, 0]
        else:
            content = read_pickle(path)
            pixels, labels = content["data"], np.asarray(content["labels"])
        images = pixels.reshape(-1, 3, _SIZE, _SIZE)
        whole = images.dtype == np.uint8 and labels.shape == (len(images),) and np.isin(labels, range(10)).all()
    except Exception as error:  # whatever a broken pickle leads to
        raise _broken(path, f"{type(error).__name__}: {error}") from error
    if not whole:
        raise _broken(path, f"pixels {pixels.dtype} {pixels.shape}, labels {labels.dtype} {labels.shape}")
    return images, labels.astype(np.uint8)


def _broken(path: Path, seen: str) -> RecipeError:
    return RecipeError(
        f"the file {path} of CIFAR-10 could not be read",
        seen=seen,
        expected="images of 3x32x32 bytes and as many labels from 0 to 9, in the python or the binary version",
        advice="replace the file by a complete one; one that was downloaded here is unpacked again once it is deleted",
    )
