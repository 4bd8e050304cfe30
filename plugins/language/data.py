"""A text, cut into blocks of characters."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, RandomSampler

from growkit import RecipeError
from growkit_plugins.common import Remote, Source, TensorBatches, batches_of

__all__ = ["TinyShakespeare"]

_SOURCE = Source(
    "Tiny Shakespeare",
    {
        "input.txt": Remote(
            "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
            "sha256:86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
            "tinyshakespeare/input.txt",
        )
    },
    folders=("tinyshakespeare", "."),
    endings=("",),
    by_hand="download data/tinyshakespeare/input.txt of https://github.com/karpathy/char-rnn",
)


class TinyShakespeare(pl.LightningDataModule):
    """Parts of Shakespeare's plays, 1.1 million characters: the first 90 % to train, the rest to validate.

    Batches are blocks of characters (N, block_size) and the characters that follow each of them (N, block_size),
    int64: positions in `vocabulary`. Training blocks start anywhere, drawn from torch's generator; validation blocks
    follow each other. A missing or unreadable file raises `RecipeError`.

    Args:
        root: folder with input.txt, directly or in tinyshakespeare; any other text of that name will do. None: the
            folder in the environment variable GROWKIT_DATA, else the user's cache, filled by one download of 1.1 MB.
        batch_size: number of blocks in a batch; at least 1.
        block_size: number of characters in a block; at least 1.
        batches: number of batches in an epoch; at least 1.
    """

    def __init__(self, root: str | None = None, batch_size: int = 32, block_size: int = 64, batches: int = 200) -> None:
        super().__init__()
        self.root = root
        self.batch_size = batch_size
        self.block_size = block_size
        self.batches = batches

    @property
    def vocabulary(self) -> str:
        """The characters of the text, in order."""
        return self._text[0]

    def prepare_data(self) -> None:
        """Download the text where that is needed; Lightning calls this in one process only."""
        _SOURCE.find(self.root)

    def train_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        """Return `batches` batches of blocks from anywhere in the training part."""
        blocks = self._blocks(self._text[1], every=1)
        sampler = RandomSampler(blocks, replacement=True, num_samples=self.batches * self.batch_size)
        return batches_of(blocks, self.batch_size, sampler=sampler)

    def val_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        """Return batches of the blocks of the validation part, in order."""
        return batches_of(self._blocks(self._text[2], every=self.block_size), self.batch_size)

    def _blocks(self, tokens: Tensor, *, every: int) -> TensorBatches:
        """Return the blocks that start at every so many characters: views, which take no memory."""
        if len(tokens) <= self.block_size:
            raise RecipeError(
                f"{_SOURCE.title} could not be cut into blocks",
                seen=f"a part of {len(tokens)} characters",
                expected=f"more than the {self.block_size} of a block",
                advice="choose a smaller block_size, or a longer text",
            )
        windows = tokens.unfold(0, self.block_size + 1, every)
        return TensorBatches(windows[:, :-1], windows[:, 1:])

    @cached_property
    def _text(self) -> tuple[str, Tensor, Tensor]:
        path = _SOURCE.find(self.root)["input.txt"]
        try:
            text = path.read_bytes().decode("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise RecipeError(
                f"the text {path} could not be read",
                seen=str(error),
                expected="text in UTF-8",
                advice="replace the file by a complete one",
            ) from error
        codes, tokens = np.unique(np.frombuffer(text.encode("utf-32-le"), "<u4"), return_inverse=True)
        cut = len(tokens) * 9 // 10
        whole = torch.from_numpy(tokens.astype(np.int64))
        return "".join(map(chr, codes)), whole[:cut], whole[cut:]
